"""How sure the subject is of the class that was asked for."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("inversion",))
def mean_confidence(*, target_logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability that the subject gives the class asked for, whether or not it is the largest.

    Source: the usual definition; no paper to match.
    Beware: an adversarial example reaches 1 as well, and so does any image for a subject that is always sure; it
    compares methods on one subject, not subjects.

    Args:
        target_logits: (N, K) of the subject on the generated images.
        labels: (N,) int64 the classes asked for.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    return target_logits.double().softmax(1).gather(1, labels[:, None])[:, 0]
