"""Whether the subject gives a reconstruction the class that it gave the original."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("reconstruction",))
def same_top1(*, target_logits: Tensor, clean_logits: Tensor) -> Tensor:
    """1 where the largest logit of both is the same class, right or wrong; 0 elsewhere.

    Source: the usual re-forward agreement; no paper to match.
    Beware: an image with nothing of the original in it can keep the answer, as an adversarial example does: read it
    beside the distances to the original.

    Args:
        target_logits: (N, K) of the subject on the reconstructions.
        clean_logits: (N, K) of the subject on the originals, in the same order.

    Returns:
        (N,) float64 of 0 and 1; of equal logits the lowest class index counts as largest.

    Raises:
        ShapeError: other axes, or logits that are not finite.
    """
    predicted = clean_logits.argmax(-1)
    check_logits(predicted, target_logits=target_logits, clean_logits=clean_logits)
    return (target_logits.argmax(1) == predicted).double()
