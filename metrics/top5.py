"""Share of test images whose true label is among the five largest logits."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits, label_place


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("training",))
def top5(*, target_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """1 where the label is among the five largest logits, 0 elsewhere; equal logits are ordered by class index.

    Source: Russakovsky et al. 2015, section 4.1 (top-5 error), arXiv:1409.0575.
    Beware: with few classes it is near 1 for any network: five guesses out of ten are right half the time by chance.

    Args:
        target_logits: (N, K) of the trained network on test images.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 of 0 and 1; ``Undefined`` when K ≤ 5, where every answer would be right.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    classes = target_logits.shape[1]
    if classes <= 5:
        return Undefined(f"the five largest of {classes} logits are all of them")
    return (label_place(target_logits, labels) < 5).double()
