"""Negative log-likelihood of the true label: how surprised the network is by the truth."""

from torch import Tensor
from torch.nn import functional as F

from bench.contract import metric
from bench.ops import check_logits


@metric(unit="nat", better="lower", per="image", bounds=(0.0, None), tracks=("training",))
def nll(*, target_logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(logits)[label] of each image, natural logarithm.

    Source: the usual definition; no paper to match.
    Beware: a few images that are wrong with great certainty can outweigh all others; label smoothing lowers it without
    one more right answer.

    Args:
        target_logits: (N, K) of the trained network on test images.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 nats, log K for a network that knows nothing.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    return F.cross_entropy(target_logits.double(), labels, reduction="none")
