"""How much of a map is left when the network it explains has forgotten everything."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._attribution import average_ranks


@metric(
    unit="correlation",
    better="lower",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("attribution",),
    partial=True,
    id="randomisation_spearman_abs",
)
def randomisation_rank_correlation(*, maps: Tensor, randomised_maps: Tensor) -> Tensor | Undefined:
    """Size of the rank correlation between the map of the trained subject and that of the same network drawn anew.

    |ρ(|m|, |m'|)|, ρ Spearman's rank correlation over the H·W pixels, equal pixels having the mean of their ranks. The
    harness redraws all weights at once, as for an untrained network, and asks the method again for the same images and
    labels.
    Source: Adebayo et al. 2018, section 3 (model parameter randomisation, Spearman with absolute values),
    arXiv:1810.03292.
    Differs: all weights at once, without the cascade from the top; the sign of ρ is dropped, since a map turned upside
    down knows as little of the weights.
    Beware: a low value says that the map depends on the weights, not that it is right; and a map that multiplies by the
    image keeps the image's own structure under any weights. Noise gives about 0.8/√(H·W), not 0.

    Args:
        maps: (N, H, W) float of the trained subject.
        randomised_maps: (N, H, W) float of the redrawn one, in the same order.

    Returns:
        (N,) float64 in [0, 1]; NaN where either map has the same size everywhere, which leaves no ranks to compare;
        ``Undefined`` when that is so for all images.

    Raises:
        ShapeError: unequal shapes, or numbers that are not finite.
    """
    check_axes(maps=(maps, "N H W"), randomised_maps=(randomised_maps, "N H W"))
    check_finite(maps=maps, randomised_maps=randomised_maps)
    ranks = [average_ranks(one.abs().flatten(1)) for one in (maps, randomised_maps)]
    first, second = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    scale = (first.square().sum(1) * second.square().sum(1)).sqrt()
    if len(scale) and not scale.any():
        return Undefined("every map, or its randomised one, has the same size everywhere")
    correlation: Tensor = (first * second).sum(1) / scale
    return correlation.abs().clamp(max=1.0).masked_fill(scale == 0, torch.nan)
