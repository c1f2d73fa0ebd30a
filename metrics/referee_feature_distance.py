"""How far a changed or rebuilt image is from its original, as the referee sees them."""

from torch import Tensor
from torch.nn import functional as F

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite


@metric(
    unit="cosine",
    better="lower",
    per="image",
    bounds=(0.0, 2.0),
    tracks=("reconstruction", "adversarial"),
    id="feature_cosine_distance_{referee}_penultimate",
)
def referee_feature_distance(*, referee_features: Tensor, real_referee_features: Tensor) -> Tensor | Undefined:
    """1 − cosine between the referee's penultimate features of each image and of its original.

    1 − ψ(x̂) · ψ(x) / (‖ψ(x̂)‖ ‖ψ(x)‖)
    The sibling of LPIPS that needs no weights beyond the referee's. It is not LPIPS: one layer in place of five, no
    positions, no channel weights fitted to human judgement.
    Source: this formula is the definition; LPIPS is Zhang et al. 2018, arXiv:1801.03924.
    Beware: the referee's last layer keeps the class and little else, so two images that share their class are near
    each other however different they look. In attacks it is small because the attack does not transfer, too.

    Args:
        referee_features: (N, D) the referee's penultimate layer on what the method made.
        real_referee_features: (N, D) the same on the originals, in the same order.

    Returns:
        (N,) float64 in [0, 2]: 0 for equal directions, 1 for orthogonal ones; NaN where a row of features is zero and
        has no direction, which makes the reading undefined; ``Undefined`` when that is so for every image.

    Raises:
        ShapeError: unequal shapes, or features that are not finite.
    """
    check_axes(referee_features=(referee_features, "N D"), real_referee_features=(real_referee_features, "N D"))
    check_finite(referee_features=referee_features, real_referee_features=real_referee_features)
    lost = (referee_features == 0).all(1) | (real_referee_features == 0).all(1)
    if len(lost) and lost.all():
        return Undefined("every image has all-zero features, which have no direction, on one side")
    ours, theirs = (F.normalize(rows.double(), dim=1) for rows in (referee_features, real_referee_features))
    # half the squared distance of unit vectors: unlike 1 − cosine, it loses no digits where they are near each other
    return ((ours - theirs).square().sum(1) / 2).masked_fill(lost, float("nan"))
