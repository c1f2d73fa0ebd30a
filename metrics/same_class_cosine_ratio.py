"""How far apart in direction the images of one class are for the referee, measured by how far apart real ones are."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets
from metrics._pairs import ROUNDING, mean_pair_cosine_distance, too_few, without_direction


@metric(
    unit="ratio",
    better="neither",
    per="class",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    id="same_class_cosine_ratio_{referee}",
)
def same_class_cosine_ratio(*, referee_features: Tensor, real_referee_features: Tensor) -> Tensor | Undefined:
    """``same_class_cosine_referee`` of the generated images of a class, divided by that of its real images.

    Source: this ratio is the definition; no paper to match.
    Beware: 1 is as diverse as reality, in whatever way. A referee that separates the classes well draws real images of
    one class close together, so a few images that it takes for another class are enough to pass 1.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images of one class.
        real_referee_features: (M, D) the same on its real images.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, a row of features is zero, or all real ones
        have one direction.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    absent = too_few(len(referee_features), len(real_referee_features)) or without_direction(
        referee_features=referee_features, real_referee_features=real_referee_features
    )
    if absent:
        return absent
    spread = mean_pair_cosine_distance(real_referee_features)
    if spread < ROUNDING:
        return Undefined("the features of the real images of the class have one direction")
    return mean_pair_cosine_distance(referee_features) / spread
