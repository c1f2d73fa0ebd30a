"""How unlike each other in structure the images of one class are."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_images
from metrics._pairs import mean_pair_dissimilarity, too_few
from metrics._ssim import too_small


@metric(
    unit="ssim",
    better="higher",
    per="class",
    bounds=(0.0, 2.0),
    tracks=("inversion", "visualization"),
    id="same_class_1-ssim_gauss11_s1.5_dr1_rgb_5000pairs",
)
def same_class_ssim(*, generated: Tensor, pairs: int = 5000) -> Tensor | Undefined:
    """Mean of 1 − SSIM over unordered pairs of images of one class, SSIM as in ``ssim_gauss11_s15``.

    mean over i < j of  1 − SSIM(x_i, x_j)
    All pairs up to 100 images. Of more, ordered by sha256 of their bytes (so the order they come in moves nothing),
    image i with image i + s, counted round, at ``pairs // N`` strides s, one at least, spread up to N/2.
    Source: this mean is the definition; SSIM of Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    Beware: noise is as diverse as it gets, and one picture shifted by a few pixels passes for many: read it beside
    ``referee_agreement`` and the cosine distances.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        pairs: about how many pairs to compare at most.

    Returns:
        () float64 in [0, 2]: 0 for equal images, about 1 for unrelated ones; ``Undefined`` when N < 2, or a side is
        below 11 px.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    check_images(generated=generated)
    return too_few(len(generated)) or too_small(generated) or mean_pair_dissimilarity(generated, pairs)
