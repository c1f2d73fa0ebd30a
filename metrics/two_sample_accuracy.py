"""How well generated and real images can be told apart by their nearest neighbour, as the referee sees them."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets
from metrics._neighbours import neighbourhoods
from metrics._shared import first


@metric(
    unit="fraction",
    better="neither",  # 1/2 is best; both ends are bad
    per="set",
    bounds=(0.0, 1.0),
    tracks=("inversion", "visualization"),
    resample="none",  # an image drawn twice is its own nearest neighbour, so no bootstrap replicate would be valid
    id="two_sample_accuracy_1nn_{referee}_penultimate",
)
def two_sample_accuracy(*, referee_features: Tensor, real_referee_features: Tensor) -> Tensor | Undefined:
    """Leave-one-out accuracy of the nearest neighbour at telling generated from real images.

    mean over n generated and n real images of [the nearest of the 2 n − 1 others is of the same side]

    There must be equally many of each side, else the larger one is nearer by its number alone: the first min(N, M) of
    both are taken. Where the nearest of one side is as near as that of the other, 1/2 is counted.
    Source: Lopez-Paz & Oquab 2017, section 3, arXiv:1610.06545; Xu et al. 2018, section 3, arXiv:1806.07755.
    Beware: 1/2 is best. Below, generated images are nearer to real ones than these are to each other; 0 is for copies
    of the reference images. Any small trait that all generated images share leads to 1, which does not say how small.
    Images that come in pairs of one condition, as those of network inversion do, are each other's neighbours: pairs of
    normal features that have only 5 % of the variance to themselves gave 0.81 where independent ones gave 0.50.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        real_referee_features: (M, D) the same on the reference images.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when either side has fewer than 2 images, or the features overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if count < 2 or reference_count < 2:
        return Undefined(f"needs 2 images of each side, got {count} generated and {reference_count} real")
    number = min(count, reference_count)
    found = neighbourhoods(generated=first(referee_features, number), real=first(real_referee_features, number))
    if isinstance(found, Undefined):
        return found
    return 1 - torch.cat([found.strangers, found.real_strangers]).mean()
