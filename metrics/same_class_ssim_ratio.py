"""How unlike each other in structure the images of one class are, measured by how unlike real ones are."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images
from metrics._pairs import ROUNDING, mean_pair_dissimilarity, too_few
from metrics._ssim import too_small


@metric(
    unit="ratio",
    better="neither",
    per="class",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    id="same_class_1-ssim_ratio_gauss11_s1.5_dr1_rgb_5000pairs",
)
def same_class_ssim_ratio(*, generated: Tensor, real: Tensor, pairs: int = 5000) -> Tensor | Undefined:
    """``same_class_ssim`` of the generated images of a class, divided by that of its real images.

    Source: this ratio is the definition; SSIM of Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    Beware: 1 is as diverse as reality, in whatever way; above 1 is usually noise, so neither direction is good by
    itself. Real images unlike each other leave little room above 1.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        real: (M, C, H, W) real images of that class.
        pairs: about how many pairs to compare at most on each side.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, all real ones are equal, or a side of an
        image is below 11 px.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "M C H W"))
    check_images(generated=generated, real=real)
    absent = too_few(len(generated), len(real)) or too_small(generated)
    if absent:
        return absent
    spread = mean_pair_dissimilarity(real, pairs)
    if spread < ROUNDING:
        return Undefined("the real images of the class are all equal")
    return mean_pair_dissimilarity(generated, pairs) / spread
