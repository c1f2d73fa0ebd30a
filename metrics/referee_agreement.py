"""Whether a network that no method has seen recognises the class that was asked for."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits, label_place


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("inversion",),
    id="referee_agreement_{referee}",
)
def referee_agreement(*, referee_logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the referee's largest logit is the class asked for, 0 elsewhere.

    Source: the usual evaluator accuracy, as DeepInversion's verifier: Yin et al. 2020, arXiv:1912.08795.
    Beware: an adversarial example that transfers fools the referee too, and a weak referee is wrong about good images:
    its agreement on real images is the yardstick. One good image repeated has the value of many.

    Args:
        referee_logits: (N, K) of the referee on the generated images.
        labels: (N,) int64 the classes asked for.

    Returns:
        (N,) float64 of 0 and 1; of equal logits the lowest class index counts as largest.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, referee_logits=referee_logits)
    return (label_place(referee_logits, labels) < 1).double()
