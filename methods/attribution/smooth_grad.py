"""The gradient, averaged over noisy copies of the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import AttributionTask, method
from methods.attribution import _gradient


@method(
    source="Smilkov et al. 2017, section 3, arXiv:1706.03825",
    differs="32 copies, where the paper takes 50; largest over the channels, as in Simonyan et al. 2014",
)
@dataclass(frozen=True, kw_only=True)
class SmoothGrad:
    """Largest |mean of ∂ s_y / ∂x at x + noise| over the channels of each pixel.

    The noise is normal and not clipped to [0, 1]. The mean is taken with signs, the size only at the end.
    """

    samples: int = 32  # at most; the budget pays for budget / 2
    spread: float = 0.15  # standard deviation of the noise, in ranges (brightest − darkest intensity) of the image

    def why_not(self, task: AttributionTask) -> str | None:
        """It needs one gradient."""
        return _gradient.too_dear(task, passes=2)

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps ≥ 0; costs 2 passes a noisy copy."""
        samples = min(self.samples, task.budget // 2)
        size = self.spread * (task.images.amax((1, 2, 3), True) - task.images.amin((1, 2, 3), True))
        slopes = torch.zeros_like(task.images)
        for sample in range(samples):
            noisy = task.images + size * task.noise(f"sample {sample}")
            slopes += _gradient.label_gradient(task, noisy)
        return (slopes / samples).abs().amax(1)
