"""How far apart, to the eye, the images of one class are, measured by how far apart real ones are (LPIPS, VGG-16)."""

from collections.abc import Callable

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images
from metrics._lpips import SMALLEST_VGG, mean_distance, too_small
from metrics._pairs import ROUNDING, too_few


@metric(
    unit="ratio",
    better="neither",
    per="class",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    id="same_class_lpips_vgg_ratio_v0.1_50pairs",
)
def same_class_lpips_vgg_ratio(
    *, generated: Tensor, real: Tensor, lpips_vgg: Callable[[Tensor, Tensor], Tensor], pairs: int = 50
) -> Tensor | Undefined:
    """``same_class_lpips_vgg`` of the generated images of a class, divided by that of its real images.

    1 is as diverse as reality, and neither way is good by itself.
    Source: this ratio is the definition; no paper to match.
    Beware: noise reaches 1 and more; a ratio near 1 says nothing about whether the images show the class.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], 1 or 3 channels, all asked for the same class.
        real: (M, C, H, W) real images of that class.
        lpips_vgg: two batches of such images → (N,).
        pairs: about how many pairs to compare at most on each side; one an image at least.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, all real ones are equal, or below 16 px.

    Raises:
        ShapeError: other axes, another number of channels, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "M C H W"))
    check_images(generated=generated, real=real)
    absent = too_few(len(generated), len(real)) or too_small(generated, SMALLEST_VGG)
    if absent:
        return absent
    spread = mean_distance(real, lpips_vgg, pairs)
    if spread < ROUNDING:
        return Undefined("the real images of the class are all equal")
    return mean_distance(generated, lpips_vgg, pairs) / spread
