"""How fast the label's probability falls as the most important pixels are blackened."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.contract import metric
from bench.ops import check_attribution
from metrics._attribution import mean_height, swap_curve


@metric(
    unit="auc",
    better="lower",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("attribution",),
    id="deletion_auc_zero",
)
def deletion_auc(
    *, maps: Tensor, real: Tensor, labels: Tensor, target: Callable[[Tensor], Tensor], steps: int = 28
) -> Tensor:
    """Area under the label's softmax probability against the share of pixels blackened, most important ones first.

    All channels of a pixel are blackened together; pixels of equal importance go in reading order.
    Source: Petsiuk et al. 2018, section 4.1 (deletion), arXiv:1806.07421.
    Differs: black is intensity 0, where the authors' code sets normalised inputs to 0; 28 equal steps.
    Beware: a half-blackened image is like nothing the network was trained on, so the probability may fall for that
    alone; on images with a black background, deleting background changes nothing. Read it beside ``deletion_auc_blur``.

    Args:
        maps: (N, H, W), larger is more important.
        real: (N, C, H, W) float, the images explained, intensities in [0, 1].
        labels: (N,) int64 the classes explained.
        target: the subject, (B, C, H, W) → (B, K) logits.
        steps: equal parts in which the pixels are blackened; the curve has steps + 1 points.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ShapeError: other axes, intensities outside [0, 1], or maps that are not finite.
    """
    check_attribution(maps, real, labels)
    return mean_height(swap_curve(target, real, torch.zeros_like(real), maps, labels, steps))
