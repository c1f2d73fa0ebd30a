"""Share of images that the subject takes for the class aimed at, 50 % sure, and the referee does not."""

from torch import Tensor

from bench.contract import metric
from metrics._fooling import fooling


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("adversarial",),
    id="fooling_rate_50_{referee}",
)
def fooling_rate_50(
    *, target_logits: Tensor, referee_logits: Tensor, target_labels: Tensor, confidence: float = 0.50
) -> Tensor:
    """1 where the subject says t with confidence, and the referee does not say t; every image counts.

    1[argmax f(x̂) = t and softmax(f(x̂))_t ≥ 0.50 and argmax g(x̂) ≠ t],  t the class aimed at
    It asks nothing of the original, since an image may have been made from none.
    Source: confident answers to unrecognisable images, Nguyen et al. 2015, arXiv:1412.1897; the referee in the place of
    people and the threshold are ours.
    Beware: a weak referee makes it high. Of an attack that names no class, t is the wrong class that the subject
    favours, and an original that was wrong with confidence counts without any attack.

    Args:
        target_logits: (N, K) of the subject on what was made.
        referee_logits: (N, K) of the referee on the same.
        target_labels: (N,) int64 the class that each image was made for.
        confidence: the least softmax probability that counts as confident.

    Returns:
        (N,) float64 of 0 and 1.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    return fooling(target_logits, referee_logits, target_labels, confidence)
