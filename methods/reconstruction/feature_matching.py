"""Find an image whose features are the wanted ones, among images that are smooth and in range."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import ReconstructionTask, method
from bench.ops import finite, step_factor, total_variation


@method(
    source="Mahendran & Vedaldi 2015, section 3, equations 1-4, arXiv:1412.0035",
    differs="Adam with a cosine to zero instead of momentum descent; pixels are clipped to [0, 1] after each step;"
    " penalties are averages over pixels, so their weights do not depend on the size of the image",
)
@dataclass(frozen=True, kw_only=True)
class FeatureMatching:
    """Minimise ‖Φ(x) − Φ₀‖² / ‖Φ₀‖² + alpha_weight · mean |2x − 1|^alpha + smoothness · TV(x) for each image.

    TV is the total variation with β = 2 a pixel. The whole budget goes into steps of two passes.
    """

    alpha: float = 6.0  # power of the norm that keeps pixels in range
    alpha_weight: float = 1e-4  # of that norm
    smoothness: float = 0.5  # weight of the total variation
    step_size: float = 0.3  # change of a pixel in the first steps, in intensities
    start_spread: float = 0.1  # standard deviation of the starting pixels around mid-grey, in intensities

    def why_not(self, task: ReconstructionTask) -> str | None:
        """One step costs a forward and a backward pass."""
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def reconstruct(self, task: ReconstructionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b for the features ``task.wanted[b]``."""
        pixels = (0.5 + self.start_spread * task.noise()).clamp_(0.0, 1.0).requires_grad_()
        optimiser = torch.optim.Adam([pixels], lr=self.step_size)
        steps = task.budget // 2
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: step_factor(step, steps, 0))
        for _ in range(steps):
            loss = _mismatch(task.model.features(pixels, task.tap), task.wanted) + self._penalty(pixels)  # (B,)
            optimiser.zero_grad()
            loss.sum().backward()  # sum, not mean: an image must not depend on its batch-mates
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                pixels.clamp_(0.0, 1.0)
        return finite(pixels)

    def _penalty(self, images: Tensor) -> Tensor:
        """(B,) what an image pays for leaving the middle of the range and for being rough."""
        spread = (2 * images - 1).abs().pow(self.alpha).flatten(1).mean(1)
        roughness = total_variation(images) / images[0].numel()
        return self.alpha_weight * spread + self.smoothness * roughness


def _mismatch(found: Tensor, wanted: Tensor) -> Tensor:
    """(B,) squared distance of features, divided by the squared length of the wanted ones."""
    length = wanted.flatten(1).square().sum(1)
    return (found - wanted).flatten(1).square().sum(1) / length.clamp_min(torch.finfo(length.dtype).tiny)
