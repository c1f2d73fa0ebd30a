"""Share of the images that were right before the attack and are of the target class after it."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits
from metrics._adversarial import NONE_RIGHT, is_seen_as, was_right


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("adversarial",), partial=True)
def target_success_rate(
    *, target_logits: Tensor, clean_logits: Tensor, labels: Tensor, target_labels: Tensor
) -> Tensor | Undefined:
    """1 where the subject gives the attacked image the target class, 0 where another, of images once right.

    Source: the usual targeted success rate; no paper to match.
    Beware: of an attack that names no target it is ``success_rate`` again. Aiming at the runner-up is easier than at a
    class drawn at random, so numbers of papers with random targets are lower.

    Args:
        target_logits: (N, K) of the subject on the perturbed images.
        clean_logits: (N, K) of the subject on the originals, in the same order.
        labels: (N,) int64 true labels.
        target_labels: (N,) int64 the class that each attack aimed at.

    Returns:
        (N,) float64 of 0 and 1, NaN where the original was wrong; ``Undefined`` when all were.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, clean_logits=clean_logits)
    check_logits(target_labels, target_logits=target_logits)
    right_before = was_right(clean_logits, labels)
    if len(labels) and not right_before.any():
        return NONE_RIGHT
    return is_seen_as(target_logits, target_labels).masked_fill(~right_before, torch.nan)
