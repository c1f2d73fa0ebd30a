"""Share of the real images of a class that lie where generated images are."""

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
    id="recall_k5_{referee}_penultimate",
)
def recall(*, referee_features: Tensor, real_referee_features: Tensor, k: int = 5) -> Tensor | Undefined:
    """Share of real images nearer to some generated image than that one's k-th nearest generated neighbour.

    One generated outlier has a large radius and can raise it: read ``coverage`` beside it.
    Source: Kynkäänniemi et al. 2019, section 2, arXiv:1904.06991; strict comparison as in Naeem et al. 2020.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images of a class.
        real_referee_features: (M, D) the same on its real images.
        k: which neighbour's distance is the radius around a generated image.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when N ≤ k or there are no real images.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if count <= k or not reference_count:
        return Undefined(f"needs {k + 1} generated images and a real one, got {count} and {reference_count}")
    radii = neighbour_radii(referee_features, k)
    reached = [(block < radii).any(1) for block in distances_in_blocks(real_referee_features, referee_features)]
    return torch.cat(reached).double().mean()
