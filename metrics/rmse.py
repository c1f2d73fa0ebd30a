"""Root-mean-square pixel distance between a reconstruction and its original."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_axes, check_images


@metric(unit="intensity", better="lower", per="image", bounds=(0.0, 1.0), tracks=("reconstruction",))
def rmse(*, generated: Tensor, real: Tensor) -> Tensor:
    """Square root of the mean over pixels and channels of (generated − real)².

    Source: this formula is the definition; no paper to match.
    Beware: it counts pixels and sees no structure: grey, or the mean of the data set, beats a sharp image that is
    shifted by a pixel, and figures of dark and bright data sets do not compare.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ShapeError: unequal shapes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    return (generated.double() - real.double()).square().flatten(1).mean(1).sqrt()
