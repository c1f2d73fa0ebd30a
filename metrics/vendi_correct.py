"""How many effectively different images of a class there are among those that the subject gives the class."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._correct import given_their_class
from metrics._vendi import vendi_score


@metric(
    unit="images",
    better="higher",
    per="class",
    bounds=(1.0, None),
    tracks=("inversion",),
    decimals=2,
    id="vendi_correct_{referee}_cosine",
)
def vendi_correct(*, referee_features: Tensor, target_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """``vendi_referee_cosine`` over the images whose largest logit of the subject is the class asked for.

    Source: Friedman & Dieng 2023, definition 3.1, arXiv:2210.02410, for the score; the restriction is ours.
    Beware: a Vendi score grows with the number of images: a row with few right images has a lower one for that alone.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the images of one class.
        target_logits: (N, K) of the subject on them.
        labels: (N,) int64 the class asked for.

    Returns:
        () float64 ≥ 1; ``Undefined`` when fewer than two images are given their class, or a row of features is zero.

    Raises:
        ShapeError: other axes, features or logits that are not finite, or labels outside [0, K).
    """
    check_axes(referee_features=(referee_features, "N D"))
    check_finite(referee_features=referee_features)
    right = given_their_class(referee_features, target_logits, labels)
    return right if isinstance(right, Undefined) else vendi_score(referee_features[right])
