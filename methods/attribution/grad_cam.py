"""Where the last convolutions see what speaks for the label: a coarse map, brought to the image's size."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import AttributionTask, Classifier, PassCounter, method
from methods.attribution import _gradient


@method(source="Selvaraju et al. 2017, section 3, arXiv:1610.02391")
@dataclass(frozen=True, kw_only=True)
class GradCAM:
    """Positive part of Σ_d w_d A_d, with A the tap's channels and w_d the mean of ∂ s_y / ∂A_d over positions.

    The map has the tap's resolution and is interpolated bilinearly, pixel centres kept in place. One weight for all
    positions suits a network that averages over them; where linear layers tell them apart, the map can miss its mark.
    """

    tap: str | None = None  # the deepest one with more than one position when None

    def why_not(self, task: AttributionTask) -> str | None:
        """It needs one gradient, and a tap that has channels over positions."""
        return _gradient.too_dear(task, passes=2) or self._no_map(task.model)

    def _no_map(self, model: Classifier) -> str | None:
        if self.tap is not None and self.tap not in model.taps:
            return f"needs the tap {self.tap!r}, the network has {', '.join(model.taps)}"
        maps = _maps(_shapes(model))
        if self.tap is not None and self.tap not in maps:
            return f"needs a convolutional map, the tap {self.tap!r} is none"
        return None if maps else "needs a tap with a convolutional map, the network has none"

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps ≥ 0; costs 2 passes an image."""
        images = task.images.detach().clone().requires_grad_()  # for the graph: the gradient ends at the tap
        seen = task.model.observe(images, task.model.taps)
        shapes = {tap: seen.features[tap].shape for tap in task.model.taps}
        channels = seen.features[self.tap or _maps(shapes)[-1]]  # (B, D, H', W')
        explained = seen.logits.gather(1, task.labels[:, None])
        (gradient,) = torch.autograd.grad(explained.sum(), channels)
        weights = gradient.mean((2, 3), keepdim=True)  # (B, D, 1, 1)
        coarse = (weights * channels.detach()).sum(1, keepdim=True).relu()  # (B, 1, H', W')
        return F.interpolate(coarse, task.images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _maps(shapes: Mapping[str, torch.Size]) -> list[str]:
    """The taps with channels over more than one position, from shallow to deep.

    None where some tap has tokens: what mixes them is attention, and a patch embedding is no last convolution.
    """
    if any(len(shape) == 3 for shape in shapes.values()):
        return []
    return [tap for tap, shape in shapes.items() if len(shape) == 4 and shape[2] * shape[3] > 1]


def _shapes(model: Classifier) -> dict[str, torch.Size]:
    """The shape of each tap, found on a device that computes shapes alone: no pass is made."""
    ghost = copy.deepcopy(model).to("meta")
    ghost.passes = PassCounter()
    seen = ghost.observe(torch.zeros(1, *model.image_shape, device="meta"), model.taps)
    return {tap: seen.features[tap].shape for tap in model.taps}
