"""The gradient times the change, averaged on the straight way from a blank image to the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import AttributionTask, method
from methods.attribution import _gradient


@method(
    source="Sundararajan et al. 2017, section 3, arXiv:1703.01365",
    differs="gradients are taken in the middle of each step, where the paper's sum takes its end",
    variants={"grey_baseline": {"baseline": 0.5}},
)
@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    """Σ over channels of (x − x') · mean over steps of ∂ s_y / ∂x at x' + α (x − x'), with its sign.

    A map sums to s_y(x) − s_y(x') as far as the steps are fine enough. Pixels that equal the baseline get 0.
    """

    steps: int = 32  # at most; the budget pays for budget / 2
    baseline: float = 0.0  # intensity of the blank image x', the same in all channels

    def why_not(self, task: AttributionTask) -> str | None:
        """It needs one gradient."""
        return _gradient.too_dear(task, passes=2)

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps, negative where a pixel speaks against the label; costs 2 passes a step."""
        steps = min(self.steps, task.budget // 2)
        way = task.images - self.baseline
        slopes = torch.zeros_like(way)
        for step in range(steps):
            slopes += _gradient.label_gradient(task, self.baseline + (step + 0.5) / steps * way)
        return (way * slopes / steps).sum(1)
