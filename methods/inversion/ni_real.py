"""Network inversion for images that are right, real and diverse at once: our variant of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bench._batch_norm import Seen, batch_norms, moments, watched
from bench.back_projection import denormalised
from bench.conditioned_generator import Additions, Trained, train_generator
from bench.conditioned_generator.network import Body, Condition, Matrix
from bench.contract import InversionTask, SetupError, method
from methods.inversion._generator import GeneratorInversion

SMALLEST_VARIANCE = 1e-5  # as BatchNorm's own
EDGE = 1e-6  # intensities are kept this far from 0 and 1 where their logits are taken


@method(
    source="ours, after spec section 10: Suhail & Sethi 2024, arXiv:2407.18002, with BatchNorm statistics as Yin et al."
    " 2020, arXiv:1912.08795, match them, and a hinge on distances within a class",
    differs="statistics are matched by the divergence of normal distributions; tuned on MNIST, on one subject that no"
    " board shows, with other referees than the judge",
    variants={
        "no_spread": {"spread": 0.0},
        "more_spread": {"share": 0.4},
        "less_spread": {"share": 0.1},
        "no_statistics": {"statistics": 0.0},
    },
)
@dataclass(frozen=True, kw_only=True)
class NiReal(GeneratorInversion):
    """The loss of network inversion + ``statistics`` · S + ``spread`` · D, on pictures shifted, turned and zoomed.

    S = Σ_layers mean_c KL(N(μ_c, σ²_c) ‖ N(running μ_c, running σ²_c)), what enters each BatchNorm layer against what
    the layer remembers: pulls the pictures to where the training data were. A generator can do that with one picture a
    class. D takes that way: Σ_layers mean over same-class pairs of max(0, 1 − d / √``share``)², with d² =
    ‖q_i − q_j‖² / 2P and q the layer's input in units of its running deviations, P numbers an image. Two draws of the
    training data have d² = 1 on average, whatever their classes; nothing pushes beyond ``share`` of that.
    """

    condition: Condition = "one_hot"
    matrix: Matrix = "auto"
    body: Body = "resize"
    dropout: str = "light"
    kl: float = 1.0
    cross_entropy: float = 3.0
    cosine: float = 0.3
    orthogonality: float = 0.3
    step_size: float = 2e-3
    first_moment: float = 0.5
    schedule: Literal["constant", "cosine"] = "cosine"
    balanced: bool = True
    statistics: float = 10.0  # weight of S
    spread: float = 5.0  # weight of D
    share: float = 0.22  # of the running variance that lies within a class, wanted
    shift: float = 2 / 28  # largest of the random shifts either way, in sides of the picture
    rotation: float = 10.0  # degrees
    zoom: float = 0.1  # logarithmic

    def why_not(self, task: InversionTask) -> str | None:
        """The subject has to have statistics to match."""
        for name in ("statistics", "spread", "shift", "rotation", "zoom"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SetupError(f"{name} is {getattr(self, name)}", "it has to be finite and not negative")
        if not 0 < self.share < math.inf:
            raise SetupError(f"share is {self.share}", "it has to be finite and above 0")
        if (self.statistics or self.spread) and not batch_norms(task.model):
            return f"needs BatchNorm, {task.model.name} has none"
        return super().why_not(task)

    def fit(self, task: InversionTask) -> Trained:
        """Train the generator; hooks on the subject come and go with it."""
        # pictures start at the mean of the subject's own normalisation instead of mid-grey
        mean = denormalised(task.model, torch.zeros(1, *task.model.image_shape, device=task.device))
        offset = mean.logit(EDGE)
        with watched(task.model) as seen:
            additions = Additions(
                picture=lambda images, latents: (images.logit(EDGE) + offset).sigmoid(),
                show=self._moved,
                terms=lambda images, labels, features: self._terms(labels, seen),
            )
            return train_generator(task, self, task.labels, additions)

    def _terms(self, labels: Tensor, seen: Seen) -> Mapping[str, Tensor]:
        """The two further terms, weighted."""
        inputs = seen.of(len(labels))
        found = {}
        if self.statistics:
            found["statistics"] = self.statistics * torch.stack([divergence(*moments(*one)) for one in inputs]).sum()
        if self.spread:
            short = [spread_hinge(standardised(*one), labels, self.share) for one in inputs]
            found["spread"] = self.spread * torch.stack(short).sum()
        return found

    def _moved(self, images: Tensor, draws: torch.Generator) -> Tensor:
        """(B, C, H, W) each shifted, turned and zoomed at random; what comes in from outside is black."""
        numbers = 2 * torch.rand(len(images), 4, generator=draws, device=images.device) - 1
        angle, zoom = numbers[:, 0] * math.radians(self.rotation), (-numbers[:, 1] * self.zoom).exp()
        right, down = (2 * self.shift * numbers[:, 2:]).unbind(1)  # the picture runs from −1 to 1
        cosine, sine = zoom * angle.cos(), zoom * angle.sin()
        rows = [torch.stack(row, 1) for row in ((cosine, -sine, right), (sine, cosine, down))]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


def divergence(mean: Tensor, variance: Tensor, running_mean: Tensor, running_variance: Tensor) -> Tensor:
    """() mean over channels of KL(N(mean, variance) ‖ N(running_mean, running_variance)), all (D,), in nats."""
    width = running_variance + SMALLEST_VARIANCE
    ratio = (variance + SMALLEST_VARIANCE) / width
    return 0.5 * (ratio + (mean - running_mean).square() / width - 1 - ratio.log()).mean()


def standardised(layer: _BatchNorm, entered: Tensor) -> Tensor:
    """(B, P) what enters a layer, (B, D, …), in units of the running deviations around the running means."""
    assert layer.running_mean is not None and layer.running_var is not None
    shape = (1, -1, *(1,) * (entered.ndim - 2))
    deviation = (layer.running_var + SMALLEST_VARIANCE).sqrt()
    return ((entered - layer.running_mean.view(shape)) / deviation.view(shape)).flatten(1)


def spread_hinge(rows: Tensor, labels: Tensor, share: float) -> Tensor:
    """() mean over same-class pairs of max(0, 1 − d / √share)², d² = ‖q_i − q_j‖² / 2P; 0 where there is no pair.

    Args:
        rows: (B, P) q.
        labels: (B,) int64.
        share: d² from which on a pair counts as different enough, above 0.
    """
    lengths = rows.square().sum(1)
    squares = (lengths[:, None] + lengths[None, :] - 2 * rows @ rows.T).clamp(min=0) / (2 * rows.shape[1])
    pair = (labels[:, None] == labels[None, :]).triu(1).to(rows)
    # a root has no slope at 0, and equal images are just where one is needed
    short = (1 - ((squares + SMALLEST_VARIANCE**2) / share).sqrt()).clamp(min=0).square()
    return (short * pair).sum() / pair.sum().clamp(min=1)
