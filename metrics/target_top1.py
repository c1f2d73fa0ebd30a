"""Whether the subject itself sees in an image the class that it should show."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits, label_place


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("visualization",))
def target_top1(*, target_logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the subject's largest logit is the class shown, 0 elsewhere; only for class logits.

    Source: the usual definition; no paper to match.
    Beware: it saturates at 1 for whatever optimises the subject's logit, noise that nobody would recognise included,
    and tells apart only methods that do not. A subject that errs on real images is no yardstick either.

    Args:
        target_logits: (N, K) of the subject on the generated images.
        labels: (N,) int64 the classes whose logits were visualized.

    Returns:
        (N,) float64 of 0 and 1; equal logits are ordered by class index.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    return (label_place(target_logits, labels) < 1).double()
