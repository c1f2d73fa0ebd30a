"""How often an attack made against the subject also fools the referee."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits, label_place


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("adversarial",),
    partial=True,
    id="transfer_rate_{referee}",
)
def transfer_rate(
    *, referee_logits: Tensor, clean_referee_logits: Tensor, clean_logits: Tensor, labels: Tensor
) -> Tensor | Undefined:
    """1 where the referee is wrong on the perturbed image, 0 where it is right, of the originals that both had right.

    The subject need not be fooled: an attack that only fools the referee transfers too.
    Source: Liu et al. 2017, section 2 (untargeted, originals that all networks had right), arXiv:1611.02770.
    Beware: a strong blur or noise fools the referee too, with no attack in it: read it beside the sizes. A referee that
    is close to the subject, by architecture or data, makes it high.

    Args:
        referee_logits: (N, K) of the referee on the perturbed images.
        clean_referee_logits: (N, K) of the referee on the originals, in the same order.
        clean_logits: (N, K) of the subject on the originals.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 of 0 and 1, NaN where either was wrong on the original; ``Undefined`` when that is so everywhere.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(
        labels, referee_logits=referee_logits, clean_referee_logits=clean_referee_logits, clean_logits=clean_logits
    )
    both_right = (label_place(clean_logits, labels) < 1) & (label_place(clean_referee_logits, labels) < 1)
    if len(labels) and not both_right.any():
        return Undefined("no original was right for both the subject and the referee")
    wrong_after = label_place(referee_logits, labels) > 0
    return wrong_after.double().masked_fill(~both_right, float("nan"))
