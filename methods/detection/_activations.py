"""What the layers of a network say of images: one pass for all taps, batch by batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.contract import Classifier, Observation

BATCH = 64  # images looked at together, for memory's sake


def pooled(features: Tensor) -> Tensor:
    """(B, D): a tap's tensor averaged over positions, or over tokens."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features


@torch.no_grad()
def observed(
    model: Classifier, images: Tensor, taps: tuple[str, ...], read: Callable[[str, Tensor], Tensor]
) -> Observation:
    """Logits of all images, and what ``read(tap, features)`` makes of each tap; costs 1 pass an image.

    ``read`` gets one batch at a time and keeps its axis 0, so that whole activations are never held for all images.
    """
    logits: list[Tensor] = []
    features: dict[str, list[Tensor]] = {tap: [] for tap in taps}
    for part in images.split(BATCH):
        seen = model.observe(part, taps)
        logits.append(seen.logits)
        for tap in taps:
            features[tap].append(read(tap, seen.features[tap]))
    return Observation(torch.cat(logits), {tap: torch.cat(parts) for tap, parts in features.items()})
