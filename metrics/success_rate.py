"""Share of the images that were right before the attack and are wrong after it."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits
from metrics._adversarial import NONE_RIGHT, succeeded, was_right


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("adversarial",), partial=True)
def success_rate(*, target_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """1 where the attack made a right answer wrong, 0 where the answer stayed right.

    Images that were wrong before do not count. Whether the bound was kept is the harness's to check.
    Source: the usual untargeted success rate; no paper to match.
    Beware: without a bound an attack can show another picture and succeed always; read it beside the sizes. A subject
    whose gradients vanish makes a weak attack look like a robust network.

    Args:
        target_logits: (N, K) of the subject on the perturbed images.
        clean_logits: (N, K) of the subject on the originals, in the same order.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 of 0 and 1, NaN where the original was wrong; ``Undefined`` when all were.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits, clean_logits=clean_logits)
    right_before = was_right(clean_logits, labels)
    if len(labels) and not right_before.any():
        return NONE_RIGHT
    return succeeded(target_logits, clean_logits, labels).double().masked_fill(~right_before, float("nan"))
