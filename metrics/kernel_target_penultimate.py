"""Kernel distance between generated and real images in the subject's own penultimate layer."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._kernel import kernel_distance


@metric(
    unit="squared kernel distance",
    better="lower",
    per="set",
    bounds=(None, None),  # unbiased, so it may fall below 0; it is not clipped
    tracks=("visualization",),
    replicates=100,
    id="kernel_poly3_target_penultimate",
)
def kernel_target_penultimate(*, target_features: Tensor, real_target_features: Tensor) -> Tensor | Undefined:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x·y/D + 1)³, in float64.

    ``kernel_referee_penultimate`` with the subject's features for the referee's.
    Source: Bińkowski et al. 2018, section 4, arXiv:1801.01401.
    Differs: all images at once instead of the mean over random subsets, so nothing is random.
    Beware: circular for methods that match the statistics of the subject's own features, as VITAL and DeepInversion do:
    it then measures their objective, and no board should be ranked by it. Its size depends on the length of the
    features, so no value can be compared across subjects. Unlike ``frechet_target_penultimate``, not biased for few
    images.

    Args:
        target_features: (N, D) the subject's penultimate layer on the generated images.
        real_target_features: (M, D) the same on the real images.

    Returns:
        () float64, 0 on average for equal distributions; ``Undefined`` when either side has fewer than 2 images, or
        the kernel overflows.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(target_features=(target_features, "N D"), real_target_features=(real_target_features, "M D"))
    check_finite(target_features=target_features, real_target_features=real_target_features)
    return kernel_distance(generated=target_features, real=real_target_features)
