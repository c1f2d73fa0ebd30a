"""Share of all images that the subject still gets right after the attack."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits, label_place


@metric(unit="fraction", better="lower", per="image", bounds=(0.0, 1.0), tracks=("adversarial",))
def robust_accuracy(*, target_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the subject is right on the original and on the perturbed image, 0 elsewhere.

    The track ranks attacks, so lower is better. An image that was wrong before stays wrong: its unperturbed copy is
    within every bound, and an attack that happens to mend it makes nothing more robust.
    Source: Croce et al. 2021, section 2 (RobustBench), arXiv:2010.09670.
    Beware: it is an upper bound under this one attack; a stronger attack can only lower it. A subject with a low clean
    accuracy has a low value under every attack.

    Args:
        target_logits: (N, K) of the subject on the perturbed images.
        clean_logits: (N, K) of the subject on the originals, in the same order.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 of 0 and 1.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits, clean_logits=clean_logits)
    right_before, right_after = (label_place(logits, labels) < 1 for logits in (clean_logits, target_logits))
    return (right_before & right_after).double()
