"""Share of generated images that lie where real images are."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets, distances_in_blocks, neighbour_radii


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("inversion", "visualization"),
    id="precision_k5_{referee}_penultimate",
)
def precision(*, referee_features: Tensor, real_referee_features: Tensor, k: int = 5) -> Tensor | Undefined:
    """1 where a generated image is nearer to some real image than that one's k-th nearest real neighbour, else 0.

    Source: Kynkäänniemi et al. 2019, section 2, arXiv:1904.06991; strict comparison as in Naeem et al. 2020.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        real_referee_features: (M, D) the same on the reference images.
        k: which neighbour's distance is the radius around a real image.

    Returns:
        (N,) float64 of 0 and 1; ``Undefined`` when M ≤ k.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    if len(real_referee_features) <= k:
        return Undefined(f"{k} neighbours need {k + 1} real images, got {len(real_referee_features)}")
    radii = neighbour_radii(real_referee_features, k)
    inside = [(block < radii).any(1) for block in distances_in_blocks(referee_features, real_referee_features)]
    return torch.cat(inside).double()
