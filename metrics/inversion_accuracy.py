"""Whether the subject gives a generated image the class that was asked for."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits, label_place


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("inversion",))
def inversion_accuracy(*, target_logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the subject's largest logit is the class asked for, 0 elsewhere.

    Source: the usual definition; no paper to match.
    Beware: an adversarial example reaches 1 as well: read it beside ``referee_agreement``. The same image a hundred
    times keeps its value.

    Args:
        target_logits: (N, K) of the subject on the generated images.
        labels: (N,) int64 the classes asked for.

    Returns:
        (N,) float64 of 0 and 1; of equal logits the lowest class index counts as largest.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    return (label_place(target_logits, labels) < 1).double()
