"""How far apart, to the eye, the images of one class are (LPIPS with AlexNet)."""

from collections.abc import Callable

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_images
from metrics._lpips import SMALLEST_ALEX, mean_distance, too_small
from metrics._pairs import too_few


@metric(
    unit="lpips",
    better="higher",
    per="class",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    id="same_class_lpips_alex_v0.1_50pairs",
)
def same_class_lpips_alex(
    *, generated: Tensor, lpips_alex: Callable[[Tensor, Tensor], Tensor], pairs: int = 50
) -> Tensor | Undefined:
    """Mean LPIPS over unordered pairs of images of one class.

    All pairs up to ten images. Of more, every image with its neighbours at ``pairs // N`` distances (one at least) in a
    ring, in which the order is that of the images' sha256. Grey is shown as three equal channels.
    Source: mean pairwise LPIPS as in Zhu et al. 2017, section 5, arXiv:1711.11586, here within a class.
    Beware: noise is far apart by LPIPS too: read it beside ``referee_agreement``, and the ratio to real images. Few
    of many pairs are a sample.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], 1 or 3 channels, all asked for the same class.
        lpips_alex: two batches of such images → (N,).
        pairs: about how many pairs to compare at most; one an image at least.

    Returns:
        () float64, 0 for equal images; ``Undefined`` when N < 2, or below 32 px.

    Raises:
        ShapeError: other axes, another number of channels, or intensities outside [0, 1].
    """
    check_images(generated=generated)
    return (
        too_few(len(generated))
        or too_small(generated, SMALLEST_ALEX, ": use same_class_lpips_vgg")
        or mean_distance(generated, lpips_alex, pairs)
    )
