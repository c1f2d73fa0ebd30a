"""How many real neighbourhoods a generated image lies in, against how many a real one would."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets, distances_in_blocks, neighbour_radii


@metric(
    unit="ratio",
    better="higher",
    per="image",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    id="density_k5_{referee}_penultimate",
)
def density(*, referee_features: Tensor, real_referee_features: Tensor, k: int = 5) -> Tensor | Undefined:
    """1/k times the number of real images whose k-th nearest real neighbour is further off than the generated image.

    About 1 on average for real images; above 1 for images that crowd where real ones are dense.
    Source: Naeem et al. 2020, equation 4, arXiv:2002.09797.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        real_referee_features: (M, D) the same on the reference images.
        k: which neighbour's distance is the radius around a real image.

    Returns:
        (N,) float64 in [0, M/k]; ``Undefined`` when M ≤ k.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    if len(real_referee_features) <= k:
        return Undefined(f"{k} neighbours need {k + 1} real images, got {len(real_referee_features)}")
    radii = neighbour_radii(real_referee_features, k)
    counts = [(block < radii).sum(1) for block in distances_in_blocks(referee_features, real_referee_features)]
    return torch.cat(counts).double() / k
