"""How often the referee, too, takes an attacked image for the target class."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits
from metrics._adversarial import is_seen_as, was_right


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("adversarial",),
    partial=True,
    id="{referee}_sees_target",
)
def referee_sees_target(
    *,
    referee_logits: Tensor,
    clean_referee_logits: Tensor,
    clean_logits: Tensor,
    labels: Tensor,
    target_labels: Tensor,
) -> Tensor | Undefined:
    """1 where the referee gives the attacked image the target class, 0 where not, of originals that both had right.

    Where an attack names no target, it is the wrong class that the subject favours on the attacked image.
    Source: targeted transfer, Liu et al. 2017, section 2 ("matching rate"), arXiv:1611.02770.
    Beware: an attack of no target that ends in a class close to the true one hits what any blur would: read it beside
    ``transfer_rate``, which counts the same images, and beside the sizes.

    Args:
        referee_logits: (N, K) of the referee on the perturbed images.
        clean_referee_logits: (N, K) of the referee on the originals, in the same order.
        clean_logits: (N, K) of the subject on the originals.
        labels: (N,) int64 true labels.
        target_labels: (N,) int64 the class that each attack aimed at.

    Returns:
        (N,) float64 of 0 and 1, NaN where either was wrong on the original; ``Undefined`` when that is so everywhere.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, clean_referee_logits=clean_referee_logits, clean_logits=clean_logits)
    check_logits(target_labels, referee_logits=referee_logits)
    both_right = was_right(clean_logits, labels) & was_right(clean_referee_logits, labels)
    if len(labels) and not both_right.any():
        return Undefined("no original was right for both the subject and the referee")
    return is_seen_as(referee_logits, target_labels).masked_fill(~both_right, torch.nan)
