"""Climb one class logit by gradient steps on the pixels of each image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import InversionTask, method
from bench.ops import finite


@method(
    source="Simonyan et al. 2014, section 2, arXiv:1312.6034",
    differs="Adam on pixels behind a sigmoid, no L2 penalty; starts from noise instead of the mean image",
)
@dataclass(frozen=True, kw_only=True)
class PixelAscent:
    """Maximise s_y(sigmoid(p)) over the pre-sigmoid pixels p; the whole budget goes into steps of two passes."""

    step_size: float = 0.05  # change of a pixel per step, before the sigmoid
    start_spread: float = 0.1  # standard deviation of the starting pixels, before the sigmoid

    def why_not(self, task: InversionTask) -> str | None:
        """One step costs a forward and a backward pass."""
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def invert(self, task: InversionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.labels[b]``."""
        pixels = (self.start_spread * task.noise()).requires_grad_()
        optimiser = torch.optim.Adam([pixels], lr=self.step_size)
        for _ in range(task.budget // 2):
            wanted = task.model(pixels.sigmoid()).gather(1, task.labels[:, None])  # (B, 1)
            optimiser.zero_grad()
            (-wanted.sum()).backward()  # sum, not mean: an image must not depend on its batch-mates
            optimiser.step()
        return finite(pixels.sigmoid())
