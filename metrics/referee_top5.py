"""Whether the class that an image should show is among the referee's five first guesses."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits, label_place


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("visualization",),
    id="referee_top5_{referee}",
)
def referee_top5(*, referee_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """1 where the referee's five largest logits hold the class shown, 0 elsewhere; only for class logits.

    Source: the usual definition; no paper to match.
    Beware: the referee sees texture more than shape, and says nothing of how real an image looks; one image repeated
    has the value of many.

    Args:
        referee_logits: (N, K) of the referee on the generated images.
        labels: (N,) int64 the classes whose logits were visualized.

    Returns:
        (N,) float64 of 0 and 1; equal logits are ordered by class index; ``Undefined`` when K ≤ 5.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, referee_logits=referee_logits)
    classes = referee_logits.shape[1]
    if classes <= 5:
        return Undefined(f"the five largest of {classes} logits are all of them")
    return (label_place(referee_logits, labels) < 5).double()
