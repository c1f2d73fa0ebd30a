"""Peak signal-to-noise ratio between a reconstruction and its original."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images


@metric(
    unit="db", better="higher", per="image", bounds=(0.0, None), tracks=("reconstruction",), decimals=2, id="psnr_dr1"
)
def psnr(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """−10 log10 of the mean squared pixel difference, data range 1.

    Identical images have no finite value; libraries answer inf, 80 or 60. Here such an image is NaN, and because
    leaving the best images out would turn the mean against the method, one of them makes the reading undefined.
    Source: this formula is the definition; scikit-image's ``peak_signal_noise_ratio(data_range=1)`` agrees.
    Beware: it counts pixels and sees no structure: a blurred image or the mean of the data set beats a sharp one that
    is shifted by a pixel. A mean of dB is not the dB of a mean: a few nearly exact images can carry it.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.

    Returns:
        (N,) float64 dB, NaN for an image equal to its original; ``Undefined`` when all are.

    Raises:
        ShapeError: unequal shapes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    mse = (generated.double() - real.double()).square().flatten(1).mean(1)
    same = mse == 0
    if len(same) and same.all():
        return Undefined("every image equals its original: no finite PSNR")
    return (-10 * mse.log10()).masked_fill(same, float("nan"))
