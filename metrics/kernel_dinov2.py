"""Kernel distance between generated and real images in DINOv2's features."""

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
    id="kernel_poly3_dinov2_vitb14",
)
def kernel_dinov2(*, dinov2_features: Tensor, real_dinov2_features: Tensor) -> Tensor | Undefined:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x·y/768 + 1)³ in DINOv2's features, in float64.

    mean over i ≠ j of k(x_i, x_j) + mean over i ≠ j of k(y_i, y_j) − 2 · mean over i, j of k(x_i, y_j)
    The features are those of ``frechet_dinov2``; all images enter at once, so nothing is random.
    Source: Bińkowski et al. 2018, section 4, arXiv:1801.01401, with DINOv2's features (Stein et al. 2023,
    arXiv:2306.04675) for Inception's.
    Beware: unbiased for any number of images, but noisy for few: look at the interval. Its size depends on that of the
    features, so it compares with nothing but itself.

    Args:
        dinov2_features: (N, 768) of the generated images.
        real_dinov2_features: (M, 768) of the reference images.

    Returns:
        () float64, 0 on average for equal distributions; ``Undefined`` when either side has fewer than 2 images, or
        the kernel overflows.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(dinov2_features=(dinov2_features, "N D"), real_dinov2_features=(real_dinov2_features, "M D"))
    check_finite(dinov2_features=dinov2_features, real_dinov2_features=real_dinov2_features)
    return kernel_distance(generated=dinov2_features, real=real_dinov2_features)
