"""Share of the real images of a class that have a generated image among their neighbours."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets, distances_in_blocks, neighbour_radii


@metric(
    unit="fraction",
    better="higher",
    per="class",
    bounds=(0.0, 1.0),
    tracks=("inversion", "visualization"),
    id="coverage_k5_{referee}_penultimate",
)
def coverage(*, referee_features: Tensor, real_referee_features: Tensor, k: int = 5) -> Tensor | Undefined:
    """Share of real images with a generated image nearer than their k-th nearest real neighbour.

    It grows with the number of generated images: compare equal numbers only.
    Source: Naeem et al. 2020, equation 5, arXiv:2002.09797.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images of a class.
        real_referee_features: (M, D) the same on its real images.
        k: which neighbour's distance is the radius around a real image.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when M ≤ k or there are no generated images.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if reference_count <= k or not count:
        return Undefined(f"needs {k + 1} real images and a generated one, got {reference_count} and {count}")
    nearest = [block.amin(1) for block in distances_in_blocks(real_referee_features, referee_features)]
    return (torch.cat(nearest) < neighbour_radii(real_referee_features, k)).double().mean()
