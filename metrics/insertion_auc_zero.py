"""How fast the label's probability rises as the most important pixels are put onto a black image."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.contract import metric
from bench.ops import check_attribution
from metrics._attribution import mean_height, swap_curve


@metric(unit="auc", better="higher", per="image", bounds=(0.0, 1.0), tracks=("attribution",))
def insertion_auc_zero(
    *, maps: Tensor, real: Tensor, labels: Tensor, target: Callable[[Tensor], Tensor], steps: int = 28
) -> Tensor:
    """Area under the label's softmax probability against the share of pixels shown on black, most important ones first.

    All channels of a pixel are shown together; pixels of equal importance go in reading order.
    Source: Petsiuk et al. 2018, section 4.1 (insertion), arXiv:1806.07421.
    Differs: starts from intensity 0, where the authors start from a blurred image; 28 equal steps.
    Beware: single pixels on black are edges of the method's own making: a map of scattered pixels can be worth less
    than one that fills a region, whatever the network looks at. Read it beside ``insertion_auc``, which starts from a
    blur.

    Args:
        maps: (N, H, W), larger is more important.
        real: (N, C, H, W) float, the images explained, intensities in [0, 1].
        labels: (N,) int64 the classes explained.
        target: the subject, (B, C, H, W) → (B, K) logits.
        steps: equal parts in which the pixels are shown; the curve has steps + 1 points.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ShapeError: other axes, intensities outside [0, 1], or maps that are not finite.
    """
    check_attribution(maps, real, labels)
    return mean_height(swap_curve(target, torch.zeros_like(real), real, maps, labels, steps))
