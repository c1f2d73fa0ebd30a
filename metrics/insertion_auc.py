"""How fast the label's probability rises as the most important pixels are put into a blurred image."""

from collections.abc import Callable

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_attribution
from metrics._attribution import blurred, mean_height, swap_curve


@metric(
    unit="auc",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("attribution",),
    id="insertion_auc_blur",
)
def insertion_auc(
    *,
    maps: Tensor,
    real: Tensor,
    labels: Tensor,
    target: Callable[[Tensor], Tensor],
    steps: int = 28,
    taps: int = 11,
    sigma: float = 5.0,
) -> Tensor | Undefined:
    """Area under the label's softmax probability against the share of pixels restored, most important ones first.

    All channels of a pixel are restored together; pixels of equal importance go in reading order.
    Source: Petsiuk et al. 2018, section 4.1 (insertion), arXiv:1806.07421.
    Differs: 28 equal steps, where the authors' code takes 224 pixels a step; its blur is kept.
    Beware: where the blurred image alone has the label's probability near 1, every map has a value near 1; an image
    that the network gets wrong keeps it low for every map.

    Args:
        maps: (N, H, W), larger is more important.
        real: (N, C, H, W) float, the images explained, intensities in [0, 1].
        labels: (N,) int64 the classes explained.
        target: the subject, (B, C, H, W) → (B, K) logits.
        steps: equal parts in which the pixels are restored; the curve has steps + 1 points.
        taps: width of the Gaussian kernel that blurs the image at the start, in pixels.
        sigma: its standard deviation, in pixels.

    Returns:
        (N,) float64 in [0, 1]; ``Undefined`` when the image is too small for the blur's mirrored border.

    Raises:
        ShapeError: other axes, intensities outside [0, 1], or maps that are not finite.
    """
    check_attribution(maps, real, labels)
    start = blurred(real, taps, sigma)
    if isinstance(start, Undefined):
        return start
    return mean_height(swap_curve(target, start, real, maps, labels, steps))
