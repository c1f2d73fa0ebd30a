"""Change the spectrum of a real picture until the activation rises, held back by what a layer saw in the picture."""

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contract import Classifier, SetupError, VisualizationTask, method
from bench.ops import finite, in_batches
from methods.visualization._references import colours_of, mixed
from methods.visualization._transforms import resampled

BATCH = 64  # references shown to the subject together
PIXELS = "pixels"  # the name of no tap: hold on to the picture itself
EDGE = 0.01  # intensities are kept this far from 0 and 1 where their logits are taken


@dataclass(frozen=True)
class Seeds:
    """Where each image of the cell starts, and the colours in which it moves.

    Args:
        chosen: (N,) int64 place of each image's picture among the references.
        matrix: (C, C) uncorrelated numbers → colours.
        passes: that finding the pictures cost an image of the cell.
    """

    chosen: Tensor
    matrix: Tensor
    passes: int


@method(
    source="Hamblin et al. 2024, Feature Accentuation, arXiv:2402.10039, with the settings of its public code and of"
    " Horama [peer]",
    differs="seeded: each image starts at a training image and explains what the neuron sees in that, so that looking"
    " real is no merit of it, and it should be read beside copied_references; the pictures are references of the class,"
    " or those that drive the channel most; one crop a step instead of 16, and larger ones, as each costs two passes;"
    " the pull is on the whole picture, not on its crops; where it starts its gradient is 0, so the ratio of gradients"
    " is taken with that of ‖h(x₀)‖², and three times it is the default; colours are those of the references; no"
    " transparency map [our choice]",
    variants={
        "source_pull": {"pull": 1.0},
        "no_pull": {"pull": 0.0},
        "source_crops": {"smallest_crop": 0.05},
        "pixel_pull": {"tap": PIXELS},
    },
)
@dataclass(frozen=True, kw_only=True)
class FeatureAccentuation:
    """Maximise a(τx) − λ ‖h(x) − h(x₀)‖² over ΔS, x = sigmoid(logit x₀ + K · F⁻¹(ΔS / max(f, 1/side) ^ decay_power)).

    x₀ is the image's own reference, a the activation asked for, h a tap, τ a crop of random size and place at the
    picture's own number of pixels, F the orthonormal Fourier transform and f the frequency in cycles a pixel; K Kᵀ is
    the covariance of the references' colours, scaled so that K's longest column has length 1. λ is ``pull`` times the
    size of ∂a(τx)/∂ΔS over that of ∂‖h(x)‖²/∂ΔS, sums of absolute values, both before the first step. ΔS starts at 0.
    Of the budget goes what the search for pictures costs, then two passes for λ, and the rest into steps of four: two
    for the crop and two for the pull. It explains an image, not a neuron alone.
    """

    tap: str = "middle"  # h: a tap's name, "middle" for the one halfway down, or "pixels"
    pull: float = 3.0  # weight of the pull, in units of λ's ratio
    step_size: float = 0.05  # change of a coefficient per step
    smallest_crop: float = 0.7  # share of the picture's side
    largest_crop: float = 0.99  # likewise
    decay_power: float = 1.0  # how fast the weight of a coefficient falls with its frequency
    candidates: int = 1000  # most references looked at for channels; the first ones

    def why_not(self, task: VisualizationTask) -> str | None:
        """Needs pictures to start from, and a step beside the passes of ``fit``.

        Raises:
            SetupError: no such tap.
        """
        self._tap(task.model)
        if not len(task.references):
            return "needs reference images to start from, the task has none"
        missing = sorted(set(task.targets.tolist()) - set(task.reference_labels.tolist()))
        if task.kind == "class" and missing:
            return f"needs references of each class, there are none of class {missing[0]}"
        needed = self._share_of_search(task) + self._start_passes() + self._step_passes()
        return None if task.budget >= needed else f"needs {needed} passes an image, the budget is {task.budget}"

    @torch.no_grad()
    def fit(self, task: VisualizationTask) -> Seeds:
        """Choose each image's picture: its target's first image gets the first or best one, the next the next."""
        driven = self._driven(task) if task.kind == "channel" else None
        chosen = torch.empty_like(task.places)
        for target in task.targets.unique():
            places = (task.targets == target).nonzero()[:, 0]
            if driven is None:
                order = (task.reference_labels == target).nonzero()[:, 0]
            else:
                order = driven[:, target].argsort(descending=True, stable=True)
            chosen[places] = order[torch.arange(len(places), device=order.device) % len(order)]
        root = colours_of(task.references).root
        return Seeds(chosen, root / root.norm(dim=0).max(), self._share_of_search(task))

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``."""
        steps = self._steps(task)
        crops = task.draws("crops", steps, 3, law="uniform")  # (B, steps, 3): size, down, right
        start = task.references[task.fitted.chosen[task.places]].clamp(EDGE, 1 - EDGE).logit()
        channels, height, width = task.model.image_shape
        change = torch.zeros(len(task), channels, height, width // 2 + 1, 2, device=task.device).requires_grad_()
        optimiser = torch.optim.Adam([change], lr=self.step_size)
        if self.pull:
            held, reach = self._held(task, start, change)
        for step in range(steps):
            images = self._picture(task, start, change)
            rise = slope(task.activation(self._cropped(images, crops[:, step])), change)
            change.grad = -rise
            if self.pull:
                if step == 0:
                    scale = self.pull * torch.where(reach > 0, size_of(rise) / reach, 0.0)
                away = (self._seen(task.model, images) - held).square().flatten(1).sum(1)
                change.grad += scale * slope(away, change)
            optimiser.step()
        return finite(self._picture(task, start, change))

    def report(self, task: VisualizationTask) -> dict[str, Any]:
        """Return what the record keeps: steps, the tap that holds, and which reference each image started from."""
        return {
            "steps": self._steps(task),
            "tap": self._tap(task.model) if self.pull else None,
            "references": task.fitted.chosen.tolist(),
        }

    # ---- the picture -----------------------------------------------------------------------------------------------

    def _picture(self, task: VisualizationTask, start: Tensor, change: Tensor) -> Tensor:
        """(B, C, H, W) intensities."""
        height, width = task.model.image_shape[1:]
        down = torch.fft.fftfreq(height, device=task.device)[:, None]
        right = torch.fft.rfftfreq(width, device=task.device)
        weights = torch.hypot(down, right).clamp_min(1 / max(height, width)) ** -self.decay_power
        moved = torch.fft.irfft2(weights * torch.view_as_complex(change), s=(height, width), norm="ortho")
        return (start + mixed(task.fitted.matrix, moved)).sigmoid()

    def _cropped(self, images: Tensor, crops: Tensor) -> Tensor:
        """A part of each image at the image's own number of pixels, as (B, 3) uniform numbers say."""
        share = self.smallest_crop + (self.largest_crop - self.smallest_crop) * crops[:, 0]
        sides = torch.tensor(images.shape[2:], device=images.device)
        centre = (1 - share)[:, None] * (crops[:, 1:] - 0.5) * sides
        return resampled(images, share=share, angle=torch.zeros_like(share), centre=centre)

    # ---- what holds it ---------------------------------------------------------------------------------------------

    def _held(self, task: VisualizationTask, start: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """h(x₀), and (B, 1, 1, 1, 1) the size of the gradient of its squared length."""
        there = self._seen(task.model, self._picture(task, start, change))
        return there.detach(), size_of(slope(there.square().flatten(1).sum(1), change))

    def _seen(self, model: Classifier, images: Tensor) -> Tensor:
        tap = self._tap(model)
        return images if tap == PIXELS else model.features(images, tap)

    def _tap(self, model: Classifier) -> str:
        if self.tap == "middle":
            return model.taps[len(model.taps) // 2]
        if self.tap not in (*model.taps, PIXELS):
            near = difflib.get_close_matches(self.tap, (*model.taps, PIXELS), n=3, cutoff=0.0)
            raise SetupError(f"tap {self.tap!r} of {model.name} does not exist", f"nearest: {', '.join(near)}")
        return self.tap

    # ---- what it costs ---------------------------------------------------------------------------------------------

    def _asks_twice(self) -> bool:
        """Whether each step shows the subject the whole picture as well."""
        return bool(self.pull) and self.tap != PIXELS

    def _start_passes(self) -> int:
        """Of what has to be known before the first step, an image."""
        return 2 if self._asks_twice() else 0

    def _step_passes(self) -> int:
        return 4 if self._asks_twice() else 2

    def _steps(self, task: VisualizationTask) -> int:
        passes: int = task.fitted.passes
        return max(0, task.budget - passes - self._start_passes()) // self._step_passes()

    def _share_of_search(self, task: VisualizationTask) -> int:
        """Passes that ``fit`` costs an image of the cell, rounded up."""
        looked_at = min(len(task.references), self.candidates) if task.kind == "channel" else 0
        return -(-looked_at // max(1, len(task)))

    def _driven(self, task: VisualizationTask) -> Tensor:
        """(R, D) how strongly each reference drives each channel of the tap: its mean over positions."""
        assert task.tap is not None
        tap = task.tap

        def means(images: Tensor) -> Tensor:
            features = task.model.features(images, tap)
            if features.ndim == 3:  # tokens: (B, tokens, D)
                return features.mean(1)
            return features.flatten(2).mean(2) if features.ndim == 4 else features

        return in_batches(means, task.references[: self.candidates], BATCH)


def slope(values: Tensor, change: Tensor) -> Tensor:
    """The gradient of each image's value by its own coefficients."""
    (gradient,) = torch.autograd.grad(values.sum(), change, retain_graph=True)  # sum: images are independent
    return gradient


def size_of(gradient: Tensor) -> Tensor:
    """(B, 1, 1, 1, 1) sum of absolute values."""
    return gradient.abs().sum((1, 2, 3, 4), keepdim=True)
