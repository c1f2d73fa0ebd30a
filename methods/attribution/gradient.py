"""How steeply the label's logit changes with each pixel."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import AttributionTask, method


@method(source="Simonyan et al. 2014, section 3.1, arXiv:1312.6034")
@dataclass(frozen=True, kw_only=True)
class Gradient:
    """Largest |∂ s_y / ∂x| over the channels of each pixel. Nothing to set."""

    def why_not(self, task: AttributionTask) -> str | None:
        """It needs one gradient."""
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps ≥ 0; costs 2 passes an image."""
        images = task.images.detach().clone().requires_grad_()
        explained = task.model(images).gather(1, task.labels[:, None])  # (B, 1)
        (gradient,) = torch.autograd.grad(explained.sum(), images)  # (B, C, H, W)
        return gradient.abs().amax(1)
