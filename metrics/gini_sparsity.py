"""How much of a map's attribution is gathered in few pixels."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite


@metric(unit="gini", better="higher", per="image", bounds=(0.0, 1.0), tracks=("attribution",), partial=True)
def gini_sparsity(*, maps: Tensor) -> Tensor | Undefined:
    """Gini index of the absolute values of each map.

    1 − 2 Σ_k (a_k / Σ a) · (P − k + ½)/P, a_1 ≤ … ≤ a_P the sorted absolute values of the P = H·W pixels.
    Source: Hurley & Rickard 2009, table I, arXiv:0811.4706.
    Beware: sparse is not right: a map with one random pixel has the largest index.

    Args:
        maps: (N, H, W) float.

    Returns:
        (N,) float64 in [0, 1 − 1/P]: 0 for a flat map, the upper end for one pixel; NaN for a map of zeros, which is
        left out of the mean; ``Undefined`` when all maps are zero.

    Raises:
        ShapeError: other axes, or numbers that are not finite.
    """
    check_axes(maps=(maps, "N H W"))
    check_finite(maps=maps)
    sizes = maps.double().abs().flatten(1).sort(dim=1).values  # (N, P), ascending
    total = sizes.sum(1)
    if len(total) and not total.any():
        return Undefined("all maps are zero")
    pixels = sizes.shape[1]
    weights = (pixels - torch.arange(pixels, dtype=torch.float64, device=maps.device) - 0.5) / pixels
    return (1 - 2 * (sizes @ weights) / total).masked_fill(total == 0, float("nan"))
