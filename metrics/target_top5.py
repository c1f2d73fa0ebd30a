"""Whether the class that an image should show is among the subject's own five first guesses."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits, label_place


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("visualization",))
def target_top5(*, target_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """1 where the subject's five largest logits hold the class shown, 0 elsewhere; only for class logits.

    Source: the usual definition; no paper to match.
    Beware: it saturates at 1 for whatever optimises the subject's logit, noise that nobody would recognise included,
    even sooner than ``target_top1``. With ten classes half of all guesses are right.

    Args:
        target_logits: (N, K) of the subject on the generated images.
        labels: (N,) int64 the classes whose logits were visualized.

    Returns:
        (N,) float64 of 0 and 1; equal logits are ordered by class index; ``Undefined`` when K ≤ 5.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    classes = target_logits.shape[1]
    if classes <= 5:
        return Undefined(f"the five largest of {classes} logits are all of them")
    return (label_place(target_logits, labels) < 5).double()
