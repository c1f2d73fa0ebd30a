"""Kernel distance between generated and real images in the referee's penultimate layer."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets

BLOCK = 1024  # rows of the kernel matrix at once: bounds the memory for 50 000 images


@metric(
    unit="squared kernel distance",
    better="lower",
    per="set",
    bounds=(None, None),  # unbiased, so it may fall below 0; it is not clipped
    tracks=("inversion", "visualization"),
    replicates=100,
    id="kernel_poly3_{referee}_penultimate",
)
def kernel_referee_penultimate(*, referee_features: Tensor, real_referee_features: Tensor) -> Tensor | Undefined:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x·y/D + 1)³, in float64.

    mean over i ≠ j of k(x_i, x_j) + mean over i ≠ j of k(y_i, y_j) − 2 · mean over i, j of k(x_i, y_j)
    Source: Bińkowski et al. 2018, section 4, arXiv:1801.01401.
    Differs: all images at once instead of the mean over random subsets, so nothing is random.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        real_referee_features: (M, D) the same on the reference images.

    Returns:
        () float64, 0 on average for equal distributions; ``Undefined`` when either side has fewer than 2 images, or
        the kernel overflows.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    ours, theirs = referee_features.double(), real_referee_features.double()
    if len(ours) < 2 or len(theirs) < 2:
        return Undefined(f"a pair needs 2 images, got {len(ours)} generated and {len(theirs)} real")
    across = _kernel_sum(ours, theirs) / (len(ours) * len(theirs))
    distance = _mean_of_pairs(ours) + _mean_of_pairs(theirs) - 2 * across
    if not torch.isfinite(distance):
        return Undefined("the features are too large for the kernel")
    return distance


def _kernel_sum(ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.stack([_kernel(block @ theirs.T, ours.shape[1]).sum() for block in torch.split(ours, BLOCK)]).sum()


def _mean_of_pairs(features: Tensor) -> Tensor:
    """Mean of the kernel over ordered pairs of different rows."""
    itself = _kernel(features.square().sum(1), features.shape[1]).sum()
    return (_kernel_sum(features, features) - itself) / (len(features) * (len(features) - 1))


def _kernel(products: Tensor, dimensions: int) -> Tensor:
    base = products / dimensions + 1
    return base * base * base  # many times faster than pow(3)
