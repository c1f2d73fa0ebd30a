"""Fréchet distance between generated and real images in the referee's penultimate layer."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets
from metrics._moments import frechet_distance


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
    square root, and exact for fewer images than features.
    Source: Heusel et al. 2017, equation 6, arXiv:1706.08500, with the referee's features for Inception's.
    Beware: biased upwards for few images, and the more so the more features there are: compare equal numbers only, and
    read ``kernel_referee_penultimate`` beside it. It sees means and covariances, nothing else: real images under wrong
    labels, and copies of reference images, are as near as any.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        real_referee_features: (M, D) the same on the reference images.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, or the sums overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    return frechet_distance(generated=referee_features, real=real_referee_features)
