"""Expected calibration error: how far confidence and accuracy lie apart."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_logits, label_place

BINS = 15


@metric(unit="fraction", better="lower", per="set", bounds=(0.0, 1.0), tracks=("training",), id="ece_15_equal_width")
def ece_15(*, target_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """Gap between mean confidence and accuracy in 15 equally wide bins of confidence, weighted by their counts.

    Σ_b |B_b|/N · |accuracy(B_b) − confidence(B_b)|, bin b being ((b − 1)/15, b/15] and confidence the largest softmax
    probability.
    Source: Guo et al. 2017, equation 3, arXiv:1706.04599.
    Beware: always answering the share of each class is calibrated and useless; and with few images the value is too
    high, since noise within a bin never cancels: a bootstrap interval lies above it.

    Args:
        target_logits: (N, K) of the trained network on test images.
        labels: (N,) int64 true labels.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when there are no images.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    if not len(labels):
        return Undefined("calibration needs images, got none")
    confidence = target_logits.double().softmax(1).amax(1)  # (N,)
    excess = (label_place(target_logits, labels) < 1).double() - confidence
    edges = torch.arange(1, BINS, dtype=torch.float64, device=confidence.device) / BINS
    bins = torch.bucketize(confidence, edges)  # a confidence on an edge belongs to the bin below
    members = torch.nn.functional.one_hot(bins, BINS).double()  # (N, 15)
    return (excess @ members).abs().sum() / len(labels)
