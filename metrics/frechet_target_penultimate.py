"""Fréchet distance between generated and real images in the subject's own penultimate layer."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._moments import frechet_distance


@metric(
    unit="squared feature distance",
    better="lower",
    per="set",
    bounds=(None, None),  # rounding may leave it a little below 0; it is not clipped
    tracks=("visualization",),
    replicates=100,
)
def frechet_target_penultimate(*, target_features: Tensor, real_target_features: Tensor) -> Tensor | Undefined:
    """‖μ₁ − μ₂‖² + tr(S₁ + S₂ − 2 (S₁ S₂)^½), S the unbiased covariances, all in float64.

    ``frechet_referee_penultimate`` with the subject's features for the referee's.
    Source: Heusel et al. 2017, equation 6, arXiv:1706.08500, with the subject's features for Inception's.
    Beware: circular for methods that match the statistics of the subject's own features, as VITAL and DeepInversion do:
    it then measures their objective, and no board should be ranked by it. No value can be compared across subjects.
    Biased upwards for few images, and the more so the more features there are: compare equal numbers only.

    Args:
        target_features: (N, D) the subject's penultimate layer on the generated images.
        real_target_features: (M, D) the same on the real images.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, or the sums overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(target_features=(target_features, "N D"), real_target_features=(real_target_features, "M D"))
    check_finite(target_features=target_features, real_target_features=real_target_features)
    return frechet_distance(generated=target_features, real=real_target_features)
