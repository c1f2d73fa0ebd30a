"""Kernel distance between generated and real images in the referee's penultimate layer."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets
from metrics._kernel import kernel_distance


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
    Beware: it compares moments up to the third only, and its size depends on the length of the referee's features: no
    value means anything without others in the same space. It sees no labels: real images under wrong ones are as near.

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
    return kernel_distance(generated=referee_features, real=real_referee_features)
