"""Climb the activation of a class logit or an inner channel by gradient steps on the pixels of each image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import VisualizationTask, method
from bench.ops import finite, total_variation


@method(
    source="Erhan et al. 2009, section 4, Université de Montréal technical report 1341; Simonyan et al. 2014,"
    " equation 1, arXiv:1312.6034; smoothness as in Mahendran & Vedaldi 2016, section 3.2, arXiv:1512.02017",
    differs="Adam on pixels behind a sigmoid; the L2 penalty pulls towards mid-grey",
)
@dataclass(frozen=True, kw_only=True)
class PixelAscent:
    """Maximise a(x) − decay · mean (2x − 1)² − smoothness · TV(x) over x = sigmoid(p).

    a is the activation asked for, TV the total variation a pixel. The whole budget goes into steps of two passes.
    """

    step_size: float = 0.05  # change of a pixel per step, before the sigmoid
    # standard deviation of the starting pixels, before the sigmoid: on a start near grey many channels are dead
    start_spread: float = 1.0
    decay: float = 0.1  # weight of the squared distance to mid-grey, averaged over pixels; in units of activation
    smoothness: float = 3.0  # weight of the squared steps between neighbours, averaged over pixels; likewise

    def why_not(self, task: VisualizationTask) -> str | None:
        """One step costs a forward and a backward pass."""
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``."""
        pixels = (self.start_spread * task.noise()).requires_grad_()
        optimiser = torch.optim.Adam([pixels], lr=self.step_size)
        for _ in range(task.budget // 2):
            images = pixels.sigmoid()
            goal = task.activation(images) - self._penalty(images)  # (B,)
            optimiser.zero_grad()
            (-goal.sum()).backward()  # sum, not mean: an image must not depend on its batch-mates
            optimiser.step()
        return finite(pixels.sigmoid())

    def _penalty(self, images: Tensor) -> Tensor:
        """(B,) what an image pays for being far from grey and for being rough."""
        greyness = (2 * images - 1).square().flatten(1).mean(1)
        roughness = total_variation(images) / images[0].numel()
        return self.decay * greyness + self.smoothness * roughness
