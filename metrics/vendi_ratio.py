"""How diverse the images of one class are against as many real ones, as the referee sees them."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets
from metrics._shared import first
from metrics._vendi import vendi_score

ONE_IMAGE = 1e-9  # a score so little above 1 is that of one image, but for rounding


@metric(
    unit="ratio",
    better="neither",  # too little and too much both differ from real images
    per="class",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    id="vendi_ratio_{referee}_cosine",
)
def vendi_ratio(*, referee_features: Tensor, real_referee_features: Tensor) -> Tensor | Undefined:
    """Vendi score above that of a single image, as a share of the same for real images.

    (V − 1) / (V_real − 1), each the Vendi score of order 1 under the cosine kernel. A Vendi score grows with the number
    of images, so both sides give equally many: the first min(N, M) of each.
    Source: Friedman & Dieng 2023, definition 3.1, arXiv:2210.02410, for V; the ratio is ours.
    Beware: 1 says as diverse as real images, not that they differ in the same ways: noise can reach and pass it.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images of a class.
        real_referee_features: (M, D) the same on its real images.

    Returns:
        () float64: 0 for one image repeated, 1 for the diversity of real images; ``Undefined`` when either side has
        fewer than 2 images, a row of features is zero, or the real images all have one direction.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if count < 2 or reference_count < 2:
        return Undefined(f"diversity needs 2 images, got {count} generated and {reference_count} real")
    number = min(count, reference_count)
    ours, theirs = vendi_score(first(referee_features, number)), vendi_score(first(real_referee_features, number))
    if isinstance(ours, Undefined):
        return ours
    if isinstance(theirs, Undefined):
        return Undefined(f"real images: {theirs.reason}")
    if theirs - 1 < ONE_IMAGE:
        return Undefined("the real images all have one direction: there is no diversity to compare with")
    return (ours - 1).clamp(min=0) / (theirs - 1)
