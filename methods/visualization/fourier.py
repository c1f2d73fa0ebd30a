"""Climb the activation in the Fourier coefficients of uncorrelated colours, under random changes of the picture."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.contract import VisualizationTask, method
from bench.ops import finite
from methods.visualization._references import colours_of, mixed
from methods.visualization._transforms import resampled, whole_shifts


@method(
    source="Olah et al. 2017, Feature Visualization, doi:10.23915/distill.00007, with the settings of Lucent [code]",
    differs="the colours' covariance is measured on the task's references; the canvas has the subject's size; the"
    " shifts before and after scaling and turning are one, in whole pixels and a share of the side, all drawn from"
    " intervals instead of lists, and one bilinear resampling with grey outside does the work of padding and five"
    " transforms; starts are wider, as near grey many channels are dead",
    variants={
        "no_fourier": {"basis": "pixels"},
        "no_decorrelation": {"decorrelate": False},
        "no_transforms": {"jitter": 0.0, "scale": 0.0, "rotation": 0.0},
    },
)
@dataclass(frozen=True, kw_only=True)
class Fourier:
    """Maximise a(τx) over S, x = sigmoid(K · F⁻¹(S / max(f, 1/side) ^ decay_power) / 4).

    a is the activation asked for, F the orthonormal Fourier transform, f the frequency in cycles a pixel and side the
    picture's longer one. K Kᵀ is the covariance of the references' colours, scaled so that K's longest column has
    length 1; τ shifts, scales and turns each picture anew in each step. The whole budget goes into steps of two passes.
    """

    step_size: float = 0.05  # change of a coefficient per step
    start_spread: float = 0.1  # standard deviation of starting coefficients, real and imaginary; the source's is 0.01
    decay_power: float = 1.0  # how fast the weight of a coefficient falls with its frequency
    basis: Literal["fourier", "pixels"] = "fourier"  # pixels: x = sigmoid(K · S) over the pixels S themselves
    decorrelate: bool = True  # else K is the identity
    jitter: float = 6 / 128  # largest shift either way, share of the shorter side
    scale: float = 0.1  # largest change of size either way, as a factor's distance from 1
    rotation: float = 10.0  # largest turn either way, degrees

    def why_not(self, task: VisualizationTask) -> str | None:
        """Colours are measured on pictures, and one step costs a forward and a backward pass."""
        if self.decorrelate and not len(task.references):
            return "needs reference images to measure colours on, the task has none"
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def fit(self, task: VisualizationTask) -> Tensor:
        """Return (C, C) the matrix K."""
        if not self.decorrelate:
            return torch.eye(task.model.image_shape[0], device=task.device)
        root = colours_of(task.references).root
        longest: Tensor = root.norm(dim=0).max()
        return root / longest

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``."""
        steps = task.budget // 2
        moves = task.draws("moves", steps, 4, law="uniform")  # (B, steps, 4): down, right, size, turn
        coefficients = (self.start_spread * self._start(task)).requires_grad_()
        optimiser = torch.optim.Adam([coefficients], lr=self.step_size)
        for step in range(steps):
            goal = task.activation(self._moved(self._picture(task, coefficients), moves[:, step]))
            optimiser.zero_grad()
            (-goal.sum()).backward()  # sum, not mean: an image must not depend on its batch-mates
            optimiser.step()
        return finite(self._picture(task, coefficients))

    def _start(self, task: VisualizationTask) -> Tensor:
        """Standard normal numbers: (B, C, H, W) pixels, or (B, C, H, W // 2 + 1, 2) real and imaginary parts."""
        if self.basis == "pixels":
            return task.noise()
        channels, height, width = task.model.image_shape
        return task.draws("start", channels, height, width // 2 + 1, 2)

    def _picture(self, task: VisualizationTask, coefficients: Tensor) -> Tensor:
        """(B, C, H, W) intensities."""
        parts = coefficients if self.basis == "pixels" else self._transformed_back(task, coefficients)
        return mixed(task.fitted, parts).sigmoid()

    def _transformed_back(self, task: VisualizationTask, coefficients: Tensor) -> Tensor:
        """(B, C, H, W) uncorrelated colours of weighted coefficients."""
        height, width = task.model.image_shape[1:]
        down = torch.fft.fftfreq(height, device=task.device)[:, None]
        right = torch.fft.rfftfreq(width, device=task.device)
        weights = torch.hypot(down, right).clamp_min(1 / max(height, width)) ** -self.decay_power
        spectrum = weights * torch.view_as_complex(coefficients)
        parts: Tensor = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
        return parts / 4

    def _moved(self, images: Tensor, moves: Tensor) -> Tensor:
        """Each image shifted, scaled and turned as (B, 4) uniform numbers say."""
        if not (self.jitter or self.scale or self.rotation):
            return images
        reach = round(self.jitter * min(images.shape[2:]))
        either_way = 2 * moves - 1
        return resampled(
            images,
            share=1 / (1 + self.scale * either_way[:, 2]),
            angle=math.radians(self.rotation) * either_way[:, 3],
            centre=whole_shifts(moves[:, :2], reach).float(),
        )
