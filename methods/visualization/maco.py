"""Climb the activation in the phases of a spectrum whose magnitude stays that of real pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import VisualizationTask, method
from bench.ops import finite
from methods.visualization._references import Colours, colours_of, mean_magnitude
from methods.visualization._transforms import resampled, rolled


@dataclass(frozen=True)
class Measured:
    """What the references say: their colours, and the mean magnitude of each coefficient, (C, H, W // 2 + 1)."""

    colours: Colours
    magnitude: Tensor


@method(
    source="Fel et al. 2023, Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained"
    " Optimization, arXiv:2306.06805, with the settings of Horama and Xplique [code]",
    differs="colours and magnitudes are measured on the task's references at the subject's size, not taken from a"
    " template of ImageNet; the canvas has the subject's size, so crops are larger; one crop a step, as each costs two"
    " passes, and smaller steps, for some tens of them [our choice]; the picture is mapped back to the references' mean"
    " and contrast and cut to [0, 1] instead of standardised and squashed; phases are not standardised, and those of"
    " coefficients that a real picture makes real or conjugate stay so, hence brightness and magnitude never move;"
    " noise is one field an image, shifted and perhaps negated in each step; no transparency map",
    variants={
        "source_steps": {"step_size": 1.0, "crop": 0.25},
        "no_crops": {"crop": 1.0, "crop_spread": 0.0},
    },
)
@dataclass(frozen=True, kw_only=True)
class MACO:
    """Maximise a(τx) over the phases φ, x = m + K · F⁻¹(r · e^{iφ}) cut to [0, 1], with r fixed.

    a is the activation asked for, F the orthonormal Fourier transform, m and K Kᵀ the mean and the covariance of the
    references' colours, and r the mean over the references of |F(K⁻¹(reference − m))|. τ is a window of random size and
    place, and noise. Phases start as those of white noise, uniform. The whole budget goes into steps of two passes.
    """

    step_size: float = 0.3  # of NAdam: change of a phase per step, radians
    crop: float = 0.9  # mean side of the window, share of the picture's
    crop_spread: float = 0.1  # its standard deviation
    smallest_crop: float = 0.05  # share of the side
    noise: float = 0.1  # largest change of a pixel that the picture should survive, intensities
    decorrelate: bool = True  # else the spectrum is that of the plain colours around their mean

    def why_not(self, task: VisualizationTask) -> str | None:
        """Magnitudes are measured on pictures, and one step costs a forward and a backward pass."""
        if not len(task.references):
            return "needs reference images to measure a spectrum on, the task has none"
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def fit(self, task: VisualizationTask) -> Measured:
        """Measure the references."""
        colours = colours_of(task.references)
        if not self.decorrelate:
            plain = torch.eye(len(colours.mean), device=task.device)
            colours = Colours(colours.mean, plain, plain)
        return Measured(colours, mean_magnitude(task.references, colours))

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``."""
        steps = task.budget // 2
        sides = torch.tensor(task.model.image_shape[1:], device=task.device)
        shares = (self.crop + self.crop_spread * task.draws("sizes", steps)).clamp(self.smallest_crop, 1.0)
        centres = (1 - shares[:, :, None]) * (task.draws("windows", steps, 2, law="uniform") - 0.5) * sides
        field = self.noise * (2 * task.draws("noise", *task.model.image_shape, law="uniform") - 1)
        offsets = (task.draws("offsets", steps, 2, law="uniform") * sides).long()
        signs = task.draws("signs", steps, 1, 1, 1, law="sign")
        start = torch.fft.rfft2(task.noise()).angle()  # (B, C, H, W // 2 + 1), uniform, and of real pictures
        change = torch.zeros_like(start).requires_grad_()
        optimiser = torch.optim.NAdam([change], lr=self.step_size)
        for step in range(steps):
            images = self._picture(task, start, change).clamp(0.0, 1.0)
            noise = signs[:, step] * rolled(field, offsets[:, step])
            goal = task.activation(self._window(images, shares[:, step], centres[:, step]) + noise)
            optimiser.zero_grad()
            (-goal.sum()).backward()  # sum, not mean: an image must not depend on its batch-mates
            optimiser.step()
        return finite(self._picture(task, start, change).clamp(0.0, 1.0))

    def _picture(self, task: VisualizationTask, start: Tensor, change: Tensor) -> Tensor:
        """(B, C, H, W) intensities, not yet cut to [0, 1]."""
        measured: Measured = task.fitted
        height, width = task.model.image_shape[1:]
        spectrum = torch.polar(measured.magnitude.expand_as(start), start + odd(change, width))
        return measured.colours.coloured(torch.fft.irfft2(spectrum, s=(height, width), norm="ortho"))

    def _window(self, images: Tensor, share: Tensor, centre: Tensor) -> Tensor:
        """A part of each image at the image's own number of pixels; see ``resampled``."""
        if self.crop == 1.0 and not self.crop_spread:
            return images
        return resampled(images, share=share, angle=torch.zeros_like(share), centre=centre)


def odd(change: Tensor, width: int) -> Tensor:
    """The phases' change with φ(−k) = −φ(k) where (…, H, W // 2 + 1) numbers hold both k and −k.

    They do in the first column and, for even W, in the last. Without this the spectrum would not be that of a real
    picture, and its magnitude there would be another.
    """
    height, columns = change.shape[2:]
    opposite = change[:, :, -torch.arange(height, device=change.device) % height]
    column = torch.arange(columns, device=change.device)
    return torch.where((column == 0) | (2 * column == width), (change - opposite) / 2, change)
