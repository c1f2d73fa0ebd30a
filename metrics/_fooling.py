"""Which images fool the subject with confidence and leave the referee unmoved."""

from torch import Tensor

from bench.ops import check_logits
from metrics._adversarial import is_seen_as


def fooling(target_logits: Tensor, referee_logits: Tensor, target_labels: Tensor, confidence: float) -> Tensor:
    """(N,) float64 of 0 and 1: the subject gives the class at least that softmax probability, the referee another.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(target_labels, target_logits=target_logits, referee_logits=referee_logits)
    given = target_logits.double().softmax(1).gather(1, target_labels[:, None])[:, 0]
    sure = (given >= confidence) & (is_seen_as(target_logits, target_labels) > 0)
    return (sure & (is_seen_as(referee_logits, target_labels) == 0)).double()
