"""How far apart in direction the images of one class are, as the referee sees them."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._pairs import mean_pair_cosine_distance, too_few, without_direction


@metric(
    unit="cosine",
    better="higher",
    per="class",
    bounds=(0.0, 2.0),
    tracks=("inversion", "visualization"),
    id="same_class_cosine_{referee}",
)
def same_class_cosine_referee(*, referee_features: Tensor) -> Tensor | Undefined:
    """Mean of 1 − cosine of the referee's penultimate features over all unordered pairs of images of one class.

    mean over i < j of  1 − ψ_i · ψ_j / (‖ψ_i‖ ‖ψ_j‖)
    Source: this mean is the definition; no paper to match.
    Beware: images that the referee takes for other classes lie far apart, so failure looks like diversity: read it
    beside ``referee_agreement``. Features after a ReLU have no negative cosine, and their scale is the network's own:
    compare rows of one referee only.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the images of one class.

    Returns:
        () float64 in [0, 2]: 0 for equal directions, 1 for orthogonal ones; ``Undefined`` when N < 2, or a row of
        features is zero and has no direction.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(referee_features=(referee_features, "N D"))
    check_finite(referee_features=referee_features)
    return (
        too_few(len(referee_features))
        or without_direction(referee_features=referee_features)
        or mean_pair_cosine_distance(referee_features)
    )
