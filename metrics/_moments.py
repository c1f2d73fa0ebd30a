"""Means and covariances of features, and the Fréchet distance between two normal distributions."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contract import Undefined
from metrics._shared import shared

BLOCK = 8192  # rows at once: bounds memory only


class Moments(NamedTuple):
    """Mean and covariance of a set.

    Args:
        mean: (D,) float64.
        root: (R, D) float64 with rootᵀ root = the covariance; R = min(N, D) for a set of N.
    """

    mean: Tensor
    root: Tensor


@shared
def moments(features: Tensor, block: int = BLOCK) -> Moments:
    """Mean and unbiased covariance of (N, D) features, N ≥ 2.

    Where there are no more images than features the root is X/√(N − 1), X the centred features. Else it is the triangle
    R of that matrix's QR decomposition, found block by block: the triangle of the rows so far, stacked on the next
    rows, has the same triangle as all of these rows.

    Args:
        block: rows at once; it bounds memory and changes nothing else.
    """
    count, dimensions = features.shape
    mean = features.mean(0, dtype=torch.float64)
    if count <= dimensions:
        return Moments(mean, (features.double() - mean) / math.sqrt(count - 1))
    root = mean.new_zeros(0, dimensions)
    for part in features.split(block):
        root = torch.linalg.qr(torch.cat([root, part.double() - mean]), mode="r").R
    return Moments(mean, root / math.sqrt(count - 1))


def frechet_distance(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """Fréchet distance between the normal distributions with the moments of two sets.

    Args:
        generated: (N, D) finite features.
        real: (M, D) the same of the reference images.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, or the sums overflow.
    """
    if len(generated) < 2 or len(real) < 2:
        return Undefined(f"a covariance needs 2 images, got {len(generated)} generated and {len(real)} real")
    distance = _between(moments(generated), moments(real))
    return distance if distance.isfinite() else Undefined("the features are too large to be squared")


def frechet_from_statistics(mean: Tensor, covariance: Tensor, real_mean: Tensor, real_covariance: Tensor) -> Tensor:
    """The same, () float64, from (D,) means and symmetric (D, D) covariances without negative eigenvalues."""
    return _between(Moments(mean.double(), _root(covariance)), Moments(real_mean.double(), _root(real_covariance)))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance.double())
    root: Tensor = values.clamp(min=0).sqrt()[:, None] * vectors.T  # rounding leaves some values just below zero
    return root


def _between(ours: Moments, theirs: Moments) -> Tensor:
    """‖μ₁ − μ₂‖² + tr S₁ + tr S₂ − 2 tr (S₁ S₂)^½.

    tr (S₁ S₂)^½ is the sum of the singular values of R₁ R₂ᵀ, where Rᵀ R = S: no matrix square root, and no eigenvalues
    of a product of covariances, whose smallest lose half of their digits.
    """
    squares: Tensor = (ours.mean - theirs.mean).square().sum() + ours.root.square().sum() + theirs.root.square().sum()
    if not squares.isfinite():
        return squares
    common: Tensor = torch.linalg.svdvals(ours.root @ theirs.root.T).sum()
    return squares - 2 * common
