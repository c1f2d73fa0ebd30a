"""An image is suspicious when its features lie far from those of every class, layer by layer."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import Classifier, DetectionTask, Skip, method
from methods.detection import _learned
from methods.detection._activations import BATCH, observed, pooled

ROUNDING = 1e-10  # share of the largest variance below which a direction holds rounding errors of float32 alone


class Gaussians(NamedTuple):
    """The classes at one tap as clouds of one shape, N(μ_c, Σ), in coordinates in which that shape is a ball."""

    centre: Tensor  # (D,) float64, mean of all pictures
    root: Tensor  # (D, R) float64 with root · rootᵀ the pseudo-inverse of Σ
    means: Tensor  # (K', R) float64, (μ_c − centre) · root of the classes that were seen

    def nearness(self, features: Tensor) -> Tensor:
        """(B,) float64: max over classes c of −(f − μ_c)ᵀ Σ⁻¹ (f − μ_c), for (B, D) features."""
        white = (features.double() - self.centre) @ self.root  # (B, R)
        apart = torch.cdist(white, self.means, compute_mode="donot_use_mm_for_euclid_dist")  # (B, K')
        return -apart.square().amin(1)


class Fitted(NamedTuple):
    """What one cell has learned."""

    gaussians: dict[str, Gaussians]  # of each tap
    learned: _learned.Learned


@method(
    source="Lee et al. 2018, section 2 and algorithm 1, arXiv:1807.03888",
    differs="the subject's taps for all blocks, their features averaged over positions or tokens; directions without"
    " variance among the clean pictures do not count; the size of the step is a setting, not tuned, and 0 by default;"
    " the regression takes standardised inputs and keeps scikit-learn's strength",
    variants={"stepped": {"step": 0.001}},
)
@dataclass(frozen=True, kw_only=True)
class Mahalanobis:
    """Logistic regression on the nearness M_l(x) = max_c −(f_l(x) − μ_c)ᵀ Σ⁻¹ (f_l(x) − μ_c) at every tap l.

    Means and the one covariance of all classes are those of the clean training pictures; the regression learns from
    known attacks. With a step, M_l is taken at x + step · sign(∇ₓ M_l(x)), for each tap anew.
    """

    step: float = 0.0  # change of every pixel towards the nearest class, in intensities; 0 takes no step
    originals_per_class: int | None = None  # of the known pictures, to learn from; None takes all

    def why_not(self, task: DetectionTask) -> str | None:
        """It looks at every clean picture once, at the others once, or three times a tap when it takes a step."""
        looks = 3 * len(task.model.taps) if self.step else 1
        return _learned.too_dear(task, scoring=looks, learning=len(task.clean) + looks * len(task.known))

    def fit(self, task: DetectionTask) -> Fitted:
        """Measure the clean pictures' Gaussians, then learn how known attacks lie among them."""
        examples = _learned.examples_of(task, self.originals_per_class)
        gaussians = gaussians_of(task.model, task.clean, task.clean_labels)
        features = self.nearness(task.model, gaussians, examples.images)
        return Fitted(gaussians, _learned.learned("logistic_regression", features, examples.attacked, task))

    def score(self, task: DetectionTask) -> Tensor:
        """Return (B,) float32 log-odds of an attack; costs 1 pass an image, 3 a tap when it takes a step."""
        return task.fitted.learned.scores(self.nearness(task.model, task.fitted.gaussians, task.images))

    def nearness(self, model: Classifier, gaussians: dict[str, Gaussians], images: Tensor) -> Tensor:
        """(B, taps) float64: M_l at every tap, after the step if there is one."""
        if self.step:
            parts = images.split(BATCH)
            taps = [torch.cat([self._after_a_step(model, tap, gaussians[tap], x) for x in parts]) for tap in gaussians]
        else:
            seen = observed(model, images, tuple(gaussians), lambda tap, f: gaussians[tap].nearness(pooled(f)))
            taps = list(seen.features.values())
        return torch.stack(taps, 1)

    def _after_a_step(self, model: Classifier, tap: str, clouds: Gaussians, images: Tensor) -> Tensor:
        """(B,) M_l of images moved towards their nearest class; they may leave [0, 1], as in the paper."""
        leaf = images.clone().requires_grad_()
        near = clouds.nearness(pooled(model.features(leaf, tap)))
        (slope,) = torch.autograd.grad(near.sum(), leaf)  # sum: no image may depend on its batch-mates
        with torch.no_grad():
            return clouds.nearness(pooled(model.features(images + self.step * slope.sign(), tap)))


def gaussians_of(model: Classifier, images: Tensor, labels: Tensor) -> dict[str, Gaussians]:
    """Class means and their common covariance at every tap; costs 1 pass an image.

    Raises:
        Skip: no clean pictures.
    """
    if not len(images):
        raise Skip("learns what is usual from clean pictures, has 0")
    seen = observed(model, images, tuple(model.taps), lambda tap, features: pooled(features))
    return {tap: _gaussians(features.double(), labels) for tap, features in seen.features.items()}


def _gaussians(features: Tensor, labels: Tensor) -> Gaussians:
    """Of (M, D) float64 features and their (M,) labels."""
    centre = features.mean(0)
    _, own = labels.unique(return_inverse=True)
    members = F.one_hot(own).to(features)  # (M, K')
    means = members.T @ (features - centre) / members.sum(0)[:, None]
    within = features - centre - means[own]
    variances, directions = torch.linalg.eigh(within.T @ within / len(features))
    there = variances > ROUNDING * variances[-1]
    root = directions[:, there] / variances[there].sqrt()
    return Gaussians(centre, root, means @ root)
