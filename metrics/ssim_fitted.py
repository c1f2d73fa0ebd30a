"""Structural similarity between a reconstruction, at its best gain and offset, and its original."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images
from metrics._fitted import fitted
from metrics._ssim import ssim, too_small


@metric(
    unit="ssim",
    better="higher",
    per="image",
    bounds=(-1.0, 1.0),
    tracks=("reconstruction",),
    id="ssim_fitted_gain_offset_gauss11_s1.5_dr1_rgb",
)
def ssim_fitted(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """SSIM (as ``ssim_gauss11_s15``) after the gain and offset that bring the image nearest to its original.

    SSIM of clip(g · generated + o) and real
    g and o make the mean of (g · generated + o − real)² least: one g and one o an image, over all of its channels. The
    fit is clipped to [0, 1]. An image without contrast has gain 0 and counts as the mean of its original. Gain and
    offset are those of the least squares, not of the largest SSIM.
    Source: Wang et al. 2004, equations 13–16, doi:10.1109/TIP.2003.819861; the fit is [our choice].
    Beware: the gain is fitted with the original at hand, and a negative one turns a negative picture back. The fit of a
    poor image is nearly flat, and a flat image has no small SSIM where the original is flat (MNIST's border). It can be
    below the raw SSIM: read it beside ``ssim_gauss11_s15``.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.

    Returns:
        (N,) float64 in [−1, 1], 1 for images equal but for gain and offset; ``Undefined`` for no images, or a side
        below 11 px.

    Raises:
        ShapeError: unequal shapes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    if not len(generated):
        return Undefined("there are no images")
    return too_small(generated) or ssim(fitted(generated, real), real)
