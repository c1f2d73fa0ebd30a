"""The calculation paths of images: which filters of each layer they use."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import Classifier, SetupError
from bench.gating.layers import require_gates, watched
from bench.ops import check_finite, check_images


@dataclass(frozen=True)
class Paths:
    """What the gates of every layer say of N images.

    Args:
        bits: layer → (N, C) bool, in eval mode.
        scores: layer → (N, C) float32; a filter is on where its score is positive.
        logits: (N, K).
    """

    bits: Mapping[str, Tensor]
    scores: Mapping[str, Tensor]
    logits: Tensor

    def joined(self) -> Tensor:
        """(N, bits of all layers) bool."""
        return torch.cat(list(self.bits.values()), 1)

    def check_like(self, other: "Paths") -> None:
        """Raise ``SetupError`` unless both are paths through networks with the same gates."""
        mine, theirs = ({name: bits.shape[1] for name, bits in paths.bits.items()} for paths in (self, other))
        if mine != theirs:
            raise SetupError(
                f"paths of different networks cannot be compared: {mine} and {theirs}", "take both from one network"
            )


def paths_of(model: Classifier, images: Tensor, batch_size: int = 64) -> Paths:
    """Look at each image once; no image at all gives paths of no rows.

    Args:
        images: (N, C, H, W) in [0, 1].

    Raises:
        SetupError: the network has no gates, or is in training mode.
        ShapeError: an image or a score is not finite, or an intensity is outside [0, 1].
    """
    layers = require_gates(model.network)
    if any(layer.training for layer in layers.values()):
        raise SetupError("paths are those of a trained network, this one is in training mode", "call eval() first")
    check_images(images=images)
    kept: list[dict[str, Tensor]] = []
    logits = []
    with torch.no_grad(), watched(model.network) as seen:
        for part in torch.split(images, batch_size) if len(images) else ():
            logits.append(model(part))
            kept.append({name: shown.scores[: len(part)] for name, shown in seen.items()})
    if not kept:
        scores = {name: images.new_zeros(0, layer.conv.out_channels) for name, layer in layers.items()}
        return Paths(
            {name: part.bool() for name, part in scores.items()}, scores, images.new_zeros(0, model.num_classes)
        )
    scores = {name: torch.cat([part[name] for part in kept]) for name in layers}
    check_finite(**{f"scores of {name}": part for name, part in scores.items()})
    return Paths({name: part > 0 for name, part in scores.items()}, scores, torch.cat(logits))
