"""What VITAL learns of references, and how far images are from it, tap by tap."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.contract import VisualizationTask
from bench.sort_matching import sort_matching_loss, stable_sort
from methods.visualization._distributions import Eye, Seen
from methods.visualization._units import intensities

BATCH = 32  # references in one forward pass
NOISE_IMAGES = 8  # on which taps are weighed against each other


def means_of(eye: Eye, references: Tensor, target: int) -> dict[str, Tensor]:
    """``target TAP`` (C, D) and, where the eye says so, ``importance TAP`` (C,): means over the references.

    ``spread TAP`` is what the references themselves lose against it: the mean of squares less the square of means.
    """
    total: dict[str, Tensor] = {}
    for part in references.split(BATCH):
        seen = eye(part, torch.full((len(part),), target, device=part.device))
        ordered = {tap: stable_sort(features)[0] for tap, features in seen.features.items()}
        sums = {f"target {tap}": values.sum(0) for tap, values in ordered.items()}
        sums |= {f"squares {tap}": values.double().square().sum((0, 2)) for tap, values in ordered.items()}
        sums |= {f"importance {tap}": importance.sum(0) for tap, importance in seen.importance.items()}
        total = {name: part_sum + total.get(name, 0.0) for name, part_sum in sums.items()}
    means = {name: summed / len(references) for name, summed in total.items()}
    for tap in seen.features:
        wanted, importance = means[f"target {tap}"], means.get(f"importance {tap}", torch.ones(()))
        lost = means.pop(f"squares {tap}") / wanted.shape[1] - wanted.double().square().mean(1)  # (C,)
        means[f"spread {tap}"] = (importance * lost.clamp_min(0.0)).mean().float()
    return means


def tap_losses(seen: Seen, targets: Mapping[str, Tensor], importance: Mapping[str, Tensor]) -> Tensor:
    """(B, taps) of (B, C, D) features and targets; the root of a channel's weight goes into both, which sorts alike."""
    losses = []
    for tap, features in seen.features.items():
        wanted = targets[tap]
        if importance:
            root = importance[tap].sqrt()[:, :, None]
            features, wanted = features * root, wanted * root
        losses.append(sort_matching_loss(features, wanted))
    return torch.stack(losses, dim=1)


def noise_of(task: VisualizationTask) -> Tensor:
    """(8, C, H, W) noise like the start of the cell's first place, so that it is the same for any number of images."""
    first = task.replace(places=torch.zeros_like(task.places[:1]))
    return intensities(task.model, first.draws("balance", NOISE_IMAGES, *task.model.image_shape)[0])


def noise_losses(
    task: VisualizationTask, eye: Eye, kinds: Tensor, targets: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> Tensor:
    """(K', taps) what noise loses against each target, whatever the others are."""
    noise = noise_of(task)
    seen = eye(noise, kinds[:1].expand(NOISE_IMAGES))  # all classes see the same
    losses = []
    for place, kind in enumerate(kinds):
        if task.kind == "channel" and place:
            seen = eye(noise, kind.expand(NOISE_IMAGES))
        wanted, matters = (
            {tap: of_all[place].expand(NOISE_IMAGES, *of_all.shape[1:]) for tap, of_all in every.items()}
            for every in (targets, importance)
        )
        losses.append(tap_losses(seen, wanted, matters).mean(0))
    return torch.stack(losses)


def natural(losses: Tensor) -> Tensor:
    """(K', taps) weights under which (K', taps) losses are all the same and sum to 1; a dead tap has none."""
    return torch.where(losses <= 0, 0.0, 1 / (losses.shape[1] * losses))


def balanced(losses: Tensor) -> Tensor:
    """(K', taps) weights under which (K', taps) losses are all the same; they sum to the number of taps."""
    shares = natural(losses)
    return losses.shape[1] * shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
