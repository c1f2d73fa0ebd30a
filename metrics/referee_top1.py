"""Whether the referee sees in an image the class that it should show."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits, label_place


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("visualization",),
    id="referee_top1_{referee}",
)
def referee_top1(*, referee_logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the referee's largest logit is the class shown, 0 elsewhere; only for class logits.

    Source: the usual definition; no paper to match.
    Beware: the referee sees texture more than shape, and says nothing of how real an image looks; one image repeated
    has the value of many.

    Args:
        referee_logits: (N, K) of the referee on the generated images.
        labels: (N,) int64 the classes whose logits were visualized.

    Returns:
        (N,) float64 of 0 and 1; equal logits are ordered by class index.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, referee_logits=referee_logits)
    return (label_place(referee_logits, labels) < 1).double()
