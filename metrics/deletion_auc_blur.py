"""How fast the label's probability falls as the most important pixels are blurred."""

from collections.abc import Callable

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_attribution
from metrics._attribution import blurred, mean_height, swap_curve


@metric(unit="auc", better="lower", per="image", bounds=(0.0, 1.0), tracks=("attribution",))
def deletion_auc_blur(
    *,
    maps: Tensor,
    real: Tensor,
    labels: Tensor,
    target: Callable[[Tensor], Tensor],
    steps: int = 28,
    taps: int = 11,
    sigma: float = 5.0,
) -> Tensor | Undefined:
    """Area under the label's softmax probability against the share of pixels blurred, most important ones first.

    Each pixel becomes that of the whole image under a Gaussian, all its channels together; pixels of equal importance
    go in reading order.
    Source: Petsiuk et al. 2018, section 4.1 (deletion), arXiv:1806.07421.
    Differs: blurred where the authors delete to a constant; the blur is that of their insertion; 28 equal steps.
    Beware: what the blur leaves of the object still supports the label, so a network that looks at coarse shape gives
    every map a high value.

    Args:
        maps: (N, H, W), larger is more important.
        real: (N, C, H, W) float, the images explained, intensities in [0, 1].
        labels: (N,) int64 the classes explained.
        target: the subject, (B, C, H, W) → (B, K) logits.
        steps: equal parts in which the pixels are blurred; the curve has steps + 1 points.
        taps: width of the Gaussian kernel, in pixels.
        sigma: its standard deviation, in pixels.

    Returns:
        (N,) float64 in [0, 1]; ``Undefined`` when the image is too small for the blur's mirrored border.

    Raises:
        ShapeError: other axes, intensities outside [0, 1], or maps that are not finite.
    """
    check_attribution(maps, real, labels)
    end = blurred(real, taps, sigma)
    if isinstance(end, Undefined):
        return end
    return mean_height(swap_curve(target, real, end, maps, labels, steps))
