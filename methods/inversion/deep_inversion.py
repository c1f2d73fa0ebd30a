"""Gradient steps on the pixels of a batch until its statistics at every BatchNorm are those of the training data."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bench._batch_norm import batch_norms, moments, watched
from bench.back_projection import denormalised
from bench.contract import InversionTask, method
from bench.ops import finite, total_variation


@method(
    source="Yin et al. 2020, section 3.2, arXiv:1912.08795, with the settings of its CIFAR-10 experiments",
    differs="statistics weigh 0.5 instead of 10, which in some tens of steps outvotes the labels, and steps are 0.1 of"
    " the intensities instead of 0.05 standard deviations in 2000 steps; the priors are means over pixels instead of"
    " norms over the batch, so no weight depends on its size; BatchNorm1d counts too; each image has a shift of its"
    " own; neither several resolutions nor a student (Adaptive DeepInversion)",
    alone=False,
    variants={"no_batch_norm": {"statistics": 0.0}},
)
@dataclass(frozen=True, kw_only=True)
class DeepInversion:
    """Minimise CE(x, y) + statistics · R(x) + smoothness · TV(x) + decay · mean n(x)² over the batch's pixels x.

    R sums ‖mean − running mean‖ + ‖variance − running variance‖ over the inputs of all BatchNorm layers, statistics
    taken over the batch: an image depends on its batch-mates. TV is the total variation of the normalised image n(x),
    divided by its numbers. Pixels are cut to [0, 1] after each step; the whole budget goes into steps of two passes.
    Without R it is the source's DeepDream, which needs no BatchNorm.
    """

    statistics: float = 0.5  # weight of R
    smoothness: float = 0.5  # weight of TV: about what the source's public code has for its better pictures
    decay: float = 3e-5  # weight of n(x)²: about the source's for a batch of 256
    jitter: int = 2  # largest shift either way, pixels
    flip: bool = False  # mirror half of the images left to right in each step; wrong for digits
    step_size: float = 0.1  # change of a pixel per step, intensities

    def why_not(self, task: InversionTask) -> str | None:
        """The statistics have to be there, and one step costs a forward and a backward pass."""
        if self.statistics and not batch_norms(task.model):
            return f"needs BatchNorm, {task.model.name} has none"
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def invert(self, task: InversionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.labels[b]``."""
        steps = task.budget // 2
        moves = task.draws("moves", steps, 3, law="uniform")  # (B, steps, 3): rows, columns, mirrored or not
        images = denormalised(task.model, task.noise()).clamp(0.0, 1.0).requires_grad_()
        optimiser = torch.optim.Adam([images], lr=self.step_size)
        with watched(task.model) as seen:
            for step in range(steps):
                logits = task.model(self._moved(images, moves[:, step]))
                loss = F.cross_entropy(logits, task.labels) + self._prior(task.model.normalise(images))
                if self.statistics:
                    own = [statistics_distance(layer, entered) for layer, entered in seen.of(len(images))]
                    loss = loss + self.statistics * torch.stack(own).sum()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                with torch.no_grad():
                    images.clamp_(0.0, 1.0)
        return finite(images)

    def _prior(self, inside: Tensor) -> Tensor:
        """() what (B, C, H, W) normalised images pay for being rough and for being far from the data's mean colour."""
        return self.smoothness * total_variation(inside).sum() / inside.numel() + self.decay * inside.square().mean()

    def _moved(self, images: Tensor, moves: Tensor) -> Tensor:
        """Each image shifted by up to ``jitter`` pixels either way, and perhaps mirrored, as (B, 3) uniforms say."""
        if self.jitter:
            reach = 2 * self.jitter + 1
            images = _rolled(images, (moves[:, :2] * reach).long() - self.jitter)
        if self.flip:
            images = torch.where((moves[:, 2] < 0.5)[:, None, None, None], images.flip(3), images)
        return images


def _rolled(images: Tensor, shifts: Tensor) -> Tensor:
    """Image b shifted down by ``shifts[b, 0]`` and right by ``shifts[b, 1]`` pixels, what leaves comes in again."""
    count, channels, height, width = images.shape
    device = images.device
    rows = (torch.arange(height, device=device) - shifts[:, :1]) % height  # (B, H)
    columns = (torch.arange(width, device=device) - shifts[:, 1:]) % width  # (B, W)
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


# ---- what BatchNorm layers remember of the training data -----------------------------------------------------------


def statistics_distance(layer: _BatchNorm, entered: Tensor) -> Tensor:
    """() ‖mean − running mean‖ + ‖variance − running variance‖ by channel, of what enters one layer, (B, D, …)."""
    mean, variance, running_mean, running_variance = moments(layer, entered)
    length = torch.linalg.vector_norm
    return length(mean - running_mean) + length(variance - running_variance)
