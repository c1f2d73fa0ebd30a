"""An image is suspicious when clean pictures crowd around it in more directions than around one another."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contract import Classifier, DetectionTask, Skip, method
from methods.detection import _learned
from methods.detection._activations import observed

NEAREST = 1e-30  # smallest distance between features: a picture's distance to itself has no logarithm
LARGEST = 1e6  # dimensionality where all neighbours are equally far, and the estimate has no upper end


class Fitted(NamedTuple):
    """What one cell has learned."""

    clean: dict[str, Tensor]  # tap → (minibatch, P) activations of the clean pictures
    learned: _learned.Learned


@method(
    source="Ma et al. 2018, section 4 and algorithm 1, arXiv:1801.02613",
    differs="the subject's taps for all layers; one minibatch of clean training pictures, the first ones, for every"
    " image, none of them its own original; neighbours of clean and of attacked images are counted alike; the"
    " regression takes standardised inputs and keeps scikit-learn's strength",
)
@dataclass(frozen=True, kw_only=True)
class LocalIntrinsicDimensionality:
    """Logistic regression on LID_l(x) = −(mean over i = 1 … k of log(r_i / r_k))⁻¹ at every tap l.

    r_i is the distance from x's activation to the i-th nearest one among a minibatch of clean pictures. The regression
    learns from known attacks.
    """

    neighbours: int = 20  # k
    minibatch: int = 100  # clean pictures among which neighbours are looked for
    originals_per_class: int | None = None  # of the known pictures, to learn from; None takes all

    def why_not(self, task: DetectionTask) -> str | None:
        """It looks once at the minibatch and at every known picture, and once at each image."""
        learning = min(self.minibatch, len(task.clean)) + len(task.known)
        return _learned.too_dear(task, scoring=1, learning=learning)

    def fit(self, task: DetectionTask) -> Fitted:
        """Keep the minibatch's activations, then learn which dimensionalities known attacks have among them.

        Raises:
            Skip: fewer clean pictures than neighbours, or nothing to learn from.
        """
        if len(task.clean[: self.minibatch]) < self.neighbours:
            raise Skip(f"needs {self.neighbours} clean pictures as neighbours, has {len(task.clean[: self.minibatch])}")
        examples = _learned.examples_of(task, self.originals_per_class)
        model = task.model
        seen = observed(model, task.clean[: self.minibatch], tuple(model.taps), lambda tap, part: part.flatten(1))
        clean = dict(seen.features)
        features = self.dimensionalities(model, clean, examples.images)
        return Fitted(clean, _learned.learned("logistic_regression", features, examples.attacked, task))

    def score(self, task: DetectionTask) -> Tensor:
        """Return (B,) float32 log-odds of an attack; costs 1 pass an image."""
        return task.fitted.learned.scores(self.dimensionalities(task.model, task.fitted.clean, task.images))

    def dimensionalities(self, model: Classifier, clean: dict[str, Tensor], images: Tensor) -> Tensor:
        """(B, taps) float64: LID_l of every image among the (minibatch, P) clean activations of each tap."""
        seen = observed(
            model, images, tuple(clean), lambda tap, part: dimensionality(part.flatten(1), clean[tap], self.neighbours)
        )
        return torch.stack(list(seen.features.values()), 1)


def dimensionality(points: Tensor, among: Tensor, neighbours: int) -> Tensor:
    """(B,) float64 maximum-likelihood estimate of the local intrinsic dimensionality.

    Args:
        points: (B, P).
        among: (M, P), M ≥ ``neighbours``.
        neighbours: k.
    """
    # without the shortcut over products, whose rounding would drown small distances
    distances = torch.cdist(points, among, compute_mode="donot_use_mm_for_euclid_dist").double()
    nearest = distances.topk(neighbours, largest=False).values.clamp(min=NEAREST)  # (B, k), ascending
    slope = (nearest / nearest[:, -1:]).log().mean(1)
    return -1 / slope.clamp(max=-1 / LARGEST)
