"""Class images by strong augmentation instead of regularisers: zoom, centring, shifts and an ensemble of colours."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import SetupError, VisualizationTask, method
from bench.ops import finite, step_factor
from methods.visualization._transforms import rolled, whole_shifts

PARTS = 8  # of the full side


@method(
    source="Ghiasi et al. 2022, Plug-In Inversion, arXiv:2201.12961, with the settings of its public code [peer]",
    differs="reads no data; a picture below full size is set in noise, as the wrapped subject takes one size only, and"
    " the noise is one field an image, shifted anew in each step; steps are what the budget pays, split evenly over the"
    " sizes; few copies, each costs two passes a step; colours shift less, noise is weaker and steps are larger, for"
    " some tens of them [our choice]; channels are shown too, by their activation instead of the cross-entropy"
    " [our choice]",
    variants={
        "source_settings": {"copies": 32, "colour_shift": 1.0, "noise": 1.0, "step_size": 0.01},
        "zoom_only": {"centring": 0.0},
        "centring_only": {"centring": 1.0},
        "no_growth": {"first_size": PARTS},
        "no_colour_shift": {"colour_shift": 0.0, "copies": 1},
    },
)
@dataclass(frozen=True, kw_only=True)
class PlugInInversion:
    """Minimise the mean over ``copies`` of CE(c(τx), y) over the pixels x, cut to [0, 1] after each step.

    τ is a circular shift, c(z) = z · exp(u) + v a change of each copy's colours with u and v uniform up to ±
    ``colour_shift`` for each channel; all are drawn anew in each step. x is first ``first_size`` eighths of a side of
    noise and grows by an eighth at a time; the last picture is stretched to the new side less ``centring`` eighths and
    set in fresh noise. The subject sees it in the middle of noise at full size. Each size has a cosine of step sizes.
    For a channel −a, its activation, stands for CE. The whole budget goes into steps of two passes a copy. Nothing in
    it asks for convolutions or BatchNorm: it is meant for transformers as well.
    """

    copies: int = 2  # of the picture in each step, with other colours
    colour_shift: float = 0.3  # largest shift of a channel, intensities, and largest change of its log contrast
    jitter: float = 32 / 224  # largest shift either way, share of the shorter side
    first_size: int = 2  # eighths of the full side
    centring: float = 0.5  # eighths of the side that each growth leaves to noise: 0 only zooms, 1 only centres
    noise: float = 0.2  # width of the range around mid-grey that noise is drawn from
    step_size: float = 0.02  # change of a pixel per step, intensities; falls to 0 within each size

    def why_not(self, task: VisualizationTask) -> str | None:
        """One step costs a forward and a backward pass of each copy.

        Raises:
            SetupError: a setting that cannot be meant.
        """
        if self.copies < 1 or not 1 <= self.first_size <= PARTS or not 0 <= self.centring <= 1:
            found = f"{self.copies}, {self.first_size} and {self.centring}"
            raise SetupError(
                f"copies should be 1 or more, first_size 1 to {PARTS}, centring 0 to 1, got {found}", "set them so"
            )
        needed = 2 * self.copies
        return None if task.budget >= needed else f"needs {needed} passes an image, the budget is {task.budget}"

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``."""
        images = middle(self._noise(task, "start"), self._side(task, self.first_size))
        for eighths, steps in self._schedule(task.budget // (2 * self.copies)):
            if eighths > self.first_size:
                stretched = F.interpolate(images, self._side(task, eighths - self.centring), mode="bilinear")
                images = framed(stretched, middle(self._noise(task, f"frame {eighths}"), self._side(task, eighths)))
            images = self._climbed(task, images, eighths, steps)
        return finite(images)

    def _noise(self, task: VisualizationTask, purpose: str) -> Tensor:
        """(B, C, H, W) uniform numbers around mid-grey."""
        return 0.5 + self.noise * (task.draws(purpose, *task.model.image_shape, law="uniform") - 0.5)

    def _schedule(self, steps: int) -> list[tuple[int, int]]:
        """(eighths of a side, steps) from small to full: even parts, of too few steps the later ones get more."""
        sizes = range(self.first_size, PARTS + 1)
        ends = [steps * (place + 1) // len(sizes) for place in range(len(sizes))]
        return [(size, end - begin) for size, begin, end in zip(sizes, [0, *ends], ends, strict=False)]

    def _side(self, task: VisualizationTask, eighths: float) -> tuple[int, int]:
        """Height and width of a part of the picture."""
        height, width = (max(1, round(side * eighths / PARTS)) for side in task.model.image_shape[1:])
        return height, width

    def _climbed(self, task: VisualizationTask, images: Tensor, eighths: int, steps: int) -> Tensor:
        """(B, C, h, w) images after their steps at one size."""
        shape = task.model.image_shape
        sides = torch.tensor(shape[1:], device=task.device)
        reach = round(self.jitter * min(shape[1:]))
        moves = task.draws(f"moves {eighths}", steps, 4, law="uniform")  # (B, steps, 4): of the canvas, of its noise
        shifts, offsets = (
            whole_shifts(moves[..., :2], reach),
            (moves[..., 2:] * sides).long(),
        )
        colours = task.draws(f"colours {eighths}", steps, 2, self.copies, shape[0], 1, 1, law="uniform")
        colours = self.colour_shift * (2 * colours - 1)
        noise = self._noise(task, f"noise {eighths}")
        many = replace(task, targets=task.targets.repeat_interleave(self.copies))

        images = images.clone().requires_grad_()
        optimiser = torch.optim.Adam([images], lr=self.step_size, betas=(0.5, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: step_factor(step, steps, 0))
        for step in range(steps):
            canvas = rolled(framed(images, rolled(noise, offsets[:, step])), shifts[:, step])
            contrast, brightness = colours[:, step].unbind(1)  # (B, copies, C, 1, 1)
            copies = canvas[:, None] * contrast.exp() + brightness
            optimiser.zero_grad()
            (loss(many, copies.flatten(0, 1)) / self.copies).backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0.0, 1.0)
        return images.detach()


def loss(task: VisualizationTask, images: Tensor) -> Tensor:
    """() sum, not mean: an image must not depend on its batch-mates."""
    if task.kind == "class":
        return F.cross_entropy(task.model(images), task.targets, reduction="sum")
    return -task.activation(images).sum()


def middle(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The (B, C, h, w) part in the middle of (B, C, H, W) images."""
    top, left = ((whole - part) // 2 for whole, part in zip(images.shape[2:], size, strict=True))
    return images[:, :, top : top + size[0], left : left + size[1]]


def framed(images: Tensor, frame: Tensor) -> Tensor:
    """(B, C, H, W) ``frame`` with the (B, C, h, w) images in its middle."""
    whole = frame.clone()
    middle(whole, (images.shape[2], images.shape[3])).copy_(images)
    return whole
