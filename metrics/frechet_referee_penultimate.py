"""Fréchet distance between generated and real images in the referee's penultimate layer."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets


@metric(
    unit="squared feature distance",
    better="lower",
    per="set",
    bounds=(None, None),  # rounding may leave it a little below 0; it is not clipped
    tracks=("inversion", "visualization"),
    replicates=100,
    id="frechet_{referee}_penultimate",
)
def frechet_referee_penultimate(*, referee_features: Tensor, real_referee_features: Tensor) -> Tensor | Undefined:
    """‖μ₁ − μ₂‖² + tr(S₁ + S₂ − 2 (S₁ S₂)^½), S the unbiased covariances, all in float64.

    tr (S₁ S₂)^½ is the sum of the singular values of X Yᵀ/√((n − 1)(m − 1)), X and Y the centred features: no matrix
    square root, and exact for fewer images than features. The distance is biased upwards for few images: compare equal
    numbers only, and read ``kernel_referee_penultimate`` beside it.
    Source: Heusel et al. 2017, equation 6, arXiv:1706.08500, with the referee's features for Inception's.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        real_referee_features: (M, D) the same on the reference images.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, or the sums overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if count < 2 or reference_count < 2:
        return Undefined(f"a covariance needs 2 images, got {count} generated and {reference_count} real")
    mean, root = _moments(referee_features)
    real_mean, real_root = _moments(real_referee_features)
    squares = (mean - real_mean).square().sum() + root.square().sum() + real_root.square().sum()
    if not torch.isfinite(squares):
        return Undefined("the features are too large to be squared")
    shared: Tensor = torch.linalg.svdvals(root @ real_root.T).sum()  # tr (S₁ S₂)^½
    return squares - 2 * shared


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) mean and a root R of the covariance, Rᵀ R = S, with no more rows than images or features."""
    features = features.double()
    mean = features.mean(0)
    root = (features - mean) / (len(features) - 1) ** 0.5  # (N, D)
    if root.shape[0] > root.shape[1]:
        root = torch.linalg.qr(root, mode="r").R  # (D, D)
    return mean, root
