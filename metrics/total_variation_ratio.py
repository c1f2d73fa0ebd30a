"""How rough an image is, measured by how rough a real image is."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, in_batches

BATCH = 1024  # images at once: bounds the memory


@metric(
    unit="ratio",
    better="neither",
    per="image",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    id="total_variation_l1_ratio",
)
def total_variation_ratio(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """Total variation of each generated image, over the mean total variation of the real images.

    TV(x) = Σ |x_{i+1,j} − x_{i,j}| + Σ |x_{i,j+1} − x_{i,j}| over channels,  the value of image n is
    TV(x_n) / mean_m TV(r_m)
    The anisotropic form with absolute differences (many penalties square them). The mean of the values is the ratio
    of the two sets' means. 1 is like reality; noise is far above, blur and flat images below.
    Source: this ratio is the definition; total variation of Rudin, Osher & Fatemi 1992,
    doi:10.1016/0167-2789(92)90242-F, in its anisotropic form.
    Beware: contrast counts as roughness, so pale noise or smooth shading of high contrast can give 1, and many methods
    penalise total variation itself, with a weight that sets this number.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (M, C, H, W) real images.

    Returns:
        (N,) float64, 0 for a constant image; ``Undefined`` when a side has no images, or all real ones are constant.

    Raises:
        ShapeError: other axes, unequal sizes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "M C H W"))
    check_images(generated=generated, real=real)
    if not len(generated) or not len(real):
        return Undefined(f"needs images on each side, got {len(generated)} generated and {len(real)} real")
    usual = in_batches(_variation, real, BATCH).mean()
    if usual == 0:
        return Undefined("every real image is constant")
    return in_batches(_variation, generated, BATCH) / usual


def _variation(images: Tensor) -> Tensor:
    """(B,) float64 sum of absolute differences between vertical and horizontal neighbours."""
    images = images.double()
    return images.diff(dim=2).abs().sum((1, 2, 3)) + images.diff(dim=3).abs().sum((1, 2, 3))
