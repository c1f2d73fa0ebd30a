"""Climb the activation on the pixels themselves, held back by total variation, decay and, if asked, blurring."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import VisualizationTask, method
from bench.ops import finite, step_factor
from methods.visualization._transforms import rolled, whole_shifts
from methods.visualization._units import intensities, unit

FLATTEST = 1e-12  # squared slopes below this count as flat: their root has no gradient


@method(
    source="total variation with an exponent, decay, jitter and a bounded range: Mahendran & Vedaldi 2016, section 3,"
    " arXiv:1512.02017; blurring between steps: Yosinski et al. 2015, section 4, arXiv:1506.06579; the loop is that of"
    " VITAL [code], Görgün et al. 2025, arXiv:2503.22399, as the control that differs from it in the loss alone",
    differs="penalties are means over pixels, so that no weight depends on the picture's size; total variation and"
    " decay are of the picture in units of about one standard deviation of natural ones; the warm-up is VITAL's share"
    " of the steps, not its number; jitter is a share of the side; weights are for some tens of steps [our choice]",
    variants={
        "no_total_variation": {"smoothness": 0.0},
        "light": {"smoothness": 3.0, "decay": 0.03},  # for channels, whose activations are smaller than logits
        # for 224 pixels: chosen on SqueezeNet by other networks' recognition of six classes outside Imagenette;
        # GoogLeNet liked about three times as much, the pictures of MobileNetV2 were not looked at
        "strong": {"smoothness": 500.0},
        "blur": {"smoothness": 0.0, "blur": 0.4},
    },
)
@dataclass(frozen=True, kw_only=True)
class TotalVariationAscent:
    """Maximise a(τx) − smoothness · TV(x) − decay · mean n(x)² over the pixels x, cut to [0, 1] after each step.

    a is the activation asked for, τ a circular shift drawn anew for each step and image, n(x) the normalised picture
    (in other units where a network does not divide by a deviation, see ``_units``) and TV(x) the mean over its numbers
    of (squared step down + squared step right) ^ (exponent / 2). The whole budget goes into steps of two passes.
    """

    smoothness: float = 50.0  # weight of TV, in units of activation
    exponent: float = 2.0  # of the slope's length: 1 keeps edges, 2 gives soft ones
    decay: float = 1.0  # weight of the squared distance to the data's mean colour, in units of activation
    blur: float = 0.0  # standard deviation of the Gaussian that blurs the picture between steps, pixels
    blur_every: int = 4  # steps from one blurring to the next
    jitter: float = 30 / 224  # largest shift either way, share of the shorter side
    step_size: float = 0.25  # largest change of a pixel per step, intensities: about one standard deviation
    warmup: float = 0.05  # share of the steps in which the step size grows; then it falls as a cosine

    def why_not(self, task: VisualizationTask) -> str | None:
        """One step costs a forward and a backward pass."""
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``."""
        steps = task.budget // 2
        reach = round(self.jitter * min(task.model.image_shape[1:]))
        shifts = whole_shifts(task.draws("jitter", steps, 2, law="uniform"), reach)  # (B, steps, 2)
        images = intensities(task.model, task.noise()).clamp(0.0, 1.0).requires_grad_()
        optimiser = torch.optim.Adam([images], lr=self.step_size, betas=(0.5, 0.9))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: step_factor(step, steps, round(self.warmup * steps))
        )
        one = unit(task.model)
        for step in range(steps):
            goal = task.activation(rolled(images, shifts[:, step])) - self._penalty(task.model.normalise(images) / one)
            optimiser.zero_grad()
            (-goal.sum()).backward()  # sum, not mean: an image must not depend on its batch-mates
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                if self.blur and step % self.blur_every == self.blur_every - 1:
                    images.copy_(blurred(images, self.blur))
                images.clamp_(0.0, 1.0)
        return finite(images)

    def _penalty(self, inside: Tensor) -> Tensor:
        """(B,) what normalised images pay for being rough and for being far from the data's mean colour."""
        roughness = total_variation(inside, self.exponent) / inside[0].numel()
        return self.smoothness * roughness + self.decay * inside.square().flatten(1).mean(1)


def total_variation(images: Tensor, exponent: float) -> Tensor:
    """(B,) sum over pixels and channels of the slope's length to the power ``exponent``; no step leaves the picture."""
    down = F.pad(images.diff(dim=2), (0, 0, 0, 1))
    right = F.pad(images.diff(dim=3), (0, 1))
    squared = down.square() + right.square()
    lengths: Tensor = squared.clamp_min(FLATTEST).pow(exponent / 2)
    return lengths.sum((1, 2, 3))


def blurred(images: Tensor, spread: float) -> Tensor:
    """Each channel of (B, C, H, W) under a Gaussian of that standard deviation, the edge going on outside."""
    reach = math.ceil(3 * spread)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / spread) ** 2)
    weights = weights / weights.sum()
    wide = F.pad(images, (reach,) * 4, mode="replicate")
    height, width = images.shape[2:]
    tall = torch.stack([weight * wide[:, :, place : place + height] for place, weight in enumerate(weights)]).sum(0)
    return torch.stack([weight * tall[:, :, :, place : place + width] for place, weight in enumerate(weights)]).sum(0)
