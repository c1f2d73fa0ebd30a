"""How sure the subject is of its wrong answer."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits
from metrics._adversarial import succeeded


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("adversarial",), partial=True)
def adversarial_confidence(*, target_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """Largest softmax probability of a wrong class, for the images that were right before and are wrong after.

    max over k ≠ y of softmax(s(x̂))_k
    Source: Goodfellow et al. 2015, section 4 (mean confidence in the misclassified class), arXiv:1412.6572.
    Beware: an attack that stops at the first wrong answer has a low value by intent, and an over-confident subject
    gives every attack a high one. Rows count different images unless all attacks fooled the same ones.

    Args:
        target_logits: (N, K) of the subject on the perturbed images.
        clean_logits: (N, K) of the subject on the originals, in the same order.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 in [1/K, 1], NaN where the attack did not succeed; ``Undefined`` when it never did.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits, clean_logits=clean_logits)
    fooled = succeeded(target_logits, clean_logits, labels)
    if len(labels) and not fooled.any():
        return Undefined("no image that was right before the attack is wrong after it")
    wrong = target_logits.double().softmax(1).scatter(1, labels[:, None], 0.0)
    return wrong.amax(1).masked_fill(~fooled, float("nan"))
