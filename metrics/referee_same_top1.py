"""Whether the referee gives a reconstruction the class that it gives the original."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_axes, check_logits


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("reconstruction",),
    id="referee_same_top1_{referee}",
)
def referee_same_top1(*, referee_logits: Tensor, clean_referee_logits: Tensor) -> Tensor:
    """1 where the referee's largest logit for both is the same class, right or wrong; 0 elsewhere.

    The referee has never been looked into, so a picture that only its own network can read does not count.
    Source: label agreement of a separate classifier on x̂, specification of Bort, section 4.2 [our choice].
    Beware: the referee gives every picture some class, on pictures unlike its training data often the same one: a
    method whose pictures all look alike has the share of that class, not 0. Read it beside the mean image's row.

    Args:
        referee_logits: (N, K) of the referee on the reconstructions.
        clean_referee_logits: (N, K) of the referee on the originals, in the same order.

    Returns:
        (N,) float64 of 0 and 1; of equal logits the lowest class index counts as largest.

    Raises:
        ShapeError: other axes, or logits that are not finite.
    """
    check_axes(referee_logits=(referee_logits, "N K"), clean_referee_logits=(clean_referee_logits, "N K"))
    predicted = clean_referee_logits.argmax(-1)
    check_logits(predicted, referee_logits=referee_logits, clean_referee_logits=clean_referee_logits)
    return (referee_logits.argmax(1) == predicted).double()
