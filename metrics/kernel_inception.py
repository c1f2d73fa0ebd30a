"""Kernel inception distance (KID) between generated and real images."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._kernel import kernel_distance


@metric(
    unit="squared kernel distance",
    better="lower",
    per="set",
    bounds=(None, None),  # unbiased, so it may fall below 0; it is not clipped
    tracks=("inversion", "visualization"),
    replicates=40,
    id="kid_poly3_inception2048_tf",
)
def kernel_inception(*, inception_features: Tensor, real_inception_features: Tensor) -> Tensor | Undefined:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x·y/2048 + 1)³ in Inception's features, in float64.

    mean over i ≠ j of k(x_i, x_j) + mean over i ≠ j of k(y_i, y_j) − 2 · mean over i, j of k(x_i, y_j)
    The features are those of ``frechet_inception``.
    Source: Bińkowski et al. 2018, section 4, arXiv:1801.01401. Differs: all images at once instead of the usual mean
    over random subsets, so nothing is random; torch-fidelity gives the same number for one subset of all images.
    Beware: unbiased for any number of images, but noisy for few: look at the interval. As for ``frechet_inception``,
    features of photographs say little about digits or noise.

    Args:
        inception_features: (N, 2048) of the generated images.
        real_inception_features: (M, 2048) of the reference images.

    Returns:
        () float64, 0 on average for equal distributions; ``Undefined`` when either side has fewer than 2 images, or
        the kernel overflows.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(inception_features=(inception_features, "N D"), real_inception_features=(real_inception_features, "M D"))
    check_finite(inception_features=inception_features, real_inception_features=real_inception_features)
    return kernel_distance(generated=inception_features, real=real_inception_features)
