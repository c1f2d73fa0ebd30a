"""An image is suspicious when few clean pictures of the class it is given lie near it in the last hidden layer."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contract import DetectionTask, Skip, method
from methods.detection import _learned
from methods.detection._activations import observed

LAYER = "penultimate"
WIDTHS = 31  # bandwidths tried, evenly spaced in their logarithm
SPAN = 4.0  # how far they reach beyond those that are best where pictures fill one dimension or all of them
SMALLEST = 1e-6  # distance to the nearest neighbour when clean pictures coincide


class Fitted(NamedTuple):
    """The clean pictures of one cell."""

    features: Tensor  # (M, D) float64
    labels: Tensor  # (M,) int64
    bandwidth: float


@method(
    source="Feinman et al. 2017, section 4.1, arXiv:1703.00410",
    differs="the density alone: Bayesian uncertainty, which needs dropout, and the regression over both are left out;"
    " the bandwidth maximises the leave-one-out likelihood of the cell's clean pictures; −log density is the score",
)
@dataclass(frozen=True, kw_only=True)
class KernelDensity:
    """−log of the mean Gaussian kernel between an image and the clean training pictures of the class it is given.

    Needs no attacks to learn from. A class of which no clean picture is there is judged by all of them.
    """

    bandwidth: float | None = None  # standard deviation of the kernel; None chooses it, see ``fit``

    def why_not(self, task: DetectionTask) -> str | None:
        """It looks once at every clean picture, and once at each image."""
        return _learned.too_dear(task, scoring=1, learning=len(task.clean))

    def fit(self, task: DetectionTask) -> Fitted:
        """Keep the features of the clean pictures, and choose the bandwidth where none is set.

        Of 31 between r / (4 √D) and 4 r, r the median distance to the nearest neighbour of the same class in D
        dimensions, it is the one under which each clean picture is likeliest given the others of its class.

        Raises:
            Skip: no clean pictures, or no two of any class to choose a bandwidth by.
        """
        if not len(task.clean):
            raise Skip("learns what is usual from clean pictures, has 0")
        features = observed(task.model, task.clean, (LAYER,), lambda tap, part: part.double()).features[LAYER]
        bandwidth = self.bandwidth or likeliest_bandwidth(features, task.clean_labels)
        return Fitted(features, task.clean_labels, bandwidth)

    def score(self, task: DetectionTask) -> Tensor:
        """Return (B,) float32 −log densities; costs 1 pass an image."""
        seen = observed(task.model, task.images, (LAYER,), lambda tap, part: part.double())
        clean: Fitted = task.fitted
        same = seen.logits.argmax(1)[:, None] == clean.labels  # (B, M)
        same |= ~same.any(1, keepdim=True)
        squares = _squared_distances(seen.features[LAYER], clean.features)
        return -log_density(squares, same, clean.bandwidth, clean.features.shape[1]).float()


def log_density(squares: Tensor, same: Tensor, bandwidth: float, dimensions: int) -> Tensor:
    """(B,) log of the mean over the pictures of the same class of the Gaussian density N(0, bandwidth² · I).

    Args:
        squares: (B, M) squared distances.
        same: (B, M) bool, which pictures count; at least one a row.
        bandwidth: standard deviation of the kernel in every direction.
        dimensions: of the space.
    """
    exponents = (-squares / (2 * bandwidth**2)).masked_fill(~same, -torch.inf)
    scale = dimensions * (math.log(bandwidth) + 0.5 * math.log(2 * math.pi))
    return exponents.logsumexp(1) - same.sum(1).log() - scale


def likeliest_bandwidth(features: Tensor, labels: Tensor) -> float:
    """The bandwidth of the largest mean leave-one-out log-likelihood within classes. See ``KernelDensity.fit``.

    Raises:
        Skip: no class has two pictures.
    """
    squares = _squared_distances(features, features)
    others = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    paired = others.any(1)
    if not paired.any():
        raise Skip(f"chooses a bandwidth by pairs of clean pictures of one class, has {len(labels)} pictures and none")
    squares, others, dimensions = squares[paired], others[paired], features.shape[1]
    nearest = squares.masked_fill(~others, torch.inf).amin(1).sqrt().median().clamp(min=SMALLEST).item()
    lowest, highest = nearest / (SPAN * math.sqrt(dimensions)), nearest * SPAN
    widths = [lowest * (highest / lowest) ** (step / (WIDTHS - 1)) for step in range(WIDTHS)]
    likelihoods = torch.stack([log_density(squares, others, width, dimensions).mean() for width in widths])
    return widths[int(likelihoods.argmax())]


def _squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """(B, M) float64; not by way of products, whose rounding would drown small ones."""
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist").square()
