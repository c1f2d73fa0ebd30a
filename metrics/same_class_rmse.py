"""How far apart, in pixels, the images of one class are."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_images
from metrics._pairs import mean_pair_rmse, too_few


@metric(unit="intensity", better="higher", per="class", bounds=(0.0, 1.0), tracks=("inversion", "visualization"))
def same_class_rmse(*, generated: Tensor) -> Tensor | Undefined:
    """Mean root-mean-square pixel distance over all unordered pairs of images of one class.

    mean over i < j of  sqrt( mean over pixels p of (x_ip − x_jp)² )
    Source: this formula is the definition; no paper to match.
    Beware: noise is diverse by this measure, and so are one picture shifted and one picture in several brightnesses:
    read it beside ``referee_agreement``.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.

    Returns:
        () float64 in [0, 1]: 0 for equal images, 1 for a black and a white one; ``Undefined`` when N < 2.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    check_images(generated=generated)
    return too_few(len(generated)) or mean_pair_rmse(generated)
