"""Peak signal-to-noise ratio between a reconstruction, at its best gain and offset, and its original."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images
from metrics._fitted import fitted

SMALLEST = 1e-12  # a mean squared difference that float32 images can have from rounding alone


@metric(
    unit="db",
    better="higher",
    per="image",
    bounds=(0.0, None),
    tracks=("reconstruction",),
    decimals=2,
    id="psnr_fitted_gain_offset_dr1",
)
def psnr_fitted(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """PSNR (data range 1) after the gain and offset that bring the image nearest to its original by least squares.

    −10 log10 mean (clip(g · generated + o) − real)²
    g and o make the mean of (g · generated + o − real)² least: one g and one o an image, over all of its channels. The
    fit is clipped to [0, 1]. An image without contrast has gain 0 and counts as the mean of its original. So an inverse
    that loses half of the energy is not told from one that keeps it: what counts is structure. An image that equals its
    original but for gain and offset has no finite value: it is NaN, and one of them makes the reading undefined.
    Source: this formula is the definition, the fit is [our choice]; −10 log10 of the mean squared difference is usual.
    Beware: the gain is fitted with the original at hand, and a negative one turns a negative picture back: it says how
    much could be seen, not how good the picture is. Grey alone gets the original's own variance. Read it beside
    ``psnr``.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.

    Returns:
        (N,) float64 dB, NaN above 120 dB, which is rounding; ``Undefined`` when all are.

    Raises:
        ShapeError: unequal shapes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    mse = (fitted(generated, real) - real.double()).square().flatten(1).mean(1)
    same = mse < SMALLEST
    if len(same) and same.all():
        return Undefined("every image equals its original but for gain and offset: no finite PSNR")
    return (-10 * mse.log10()).masked_fill(same, float("nan"))
