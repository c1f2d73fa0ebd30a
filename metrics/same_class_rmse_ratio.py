"""How far apart the images of one class are, measured by how far apart real ones are."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images
from metrics._pairs import mean_pair_rmse, too_few


@metric(unit="ratio", better="neither", per="class", bounds=(0.0, None), tracks=("inversion", "visualization"))
def same_class_rmse_ratio(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """``same_class_rmse`` of the generated images of a class, divided by that of its real images.

    Source: this ratio is the definition; no paper to match.
    Beware: 1 is as diverse as reality, in whatever way; above 1 is usually noise, so neither direction is good by
    itself.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        real: (M, C, H, W) real images of that class.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, or all real ones are equal.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "M C H W"))
    check_images(generated=generated, real=real)
    absent = too_few(len(generated), len(real))
    if absent:
        return absent
    spread = mean_pair_rmse(real)
    if spread == 0:
        return Undefined("the real images of the class are all equal")
    return mean_pair_rmse(generated) / spread
