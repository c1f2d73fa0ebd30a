"""How far the subject's answer to an image is from the probabilities that were asked for."""

import torch
from torch import Tensor

from bench.contract import ShapeError, metric
from bench.ops import check_axes, check_finite

SUM_TOLERANCE = 1e-4  # of a row of probabilities, float32 ones over a thousand classes included


@metric(unit="nat", better="lower", per="image", bounds=(0.0, None), tracks=("inversion",))
def kl_to_wanted(*, target_logits: Tensor, wanted_distribution: Tensor) -> Tensor:
    """Kullback–Leibler divergence from the subject's softmax probabilities P to the wanted ones Q.

    KL(Q‖P) = Σ_k Q_k (log Q_k − log P_k), with 0 · log 0 = 0. For a single wanted class this is its negative
    log-likelihood, −log P_y.
    Source: Kullback & Leibler 1951, section 2, doi:10.1214/aoms/1177729694.
    Beware: an adversarial example reaches 0 as well: read it beside ``referee_agreement``. One image with a tiny P_k
    where Q_k is not small can outweigh all others.

    Args:
        target_logits: (N, K) of the subject on the generated images.
        wanted_distribution: (N, K) the probabilities asked for; each row sums to 1.

    Returns:
        (N,) float64 nats, 0 when the subject answers as asked.

    Raises:
        ShapeError: other axes, numbers that are not finite, or rows that are no probabilities.
    """
    check_axes(target_logits=(target_logits, "N K"), wanted_distribution=(wanted_distribution, "N K"))
    check_finite(target_logits=target_logits, wanted_distribution=wanted_distribution)
    wanted = wanted_distribution.double()
    off = int(((wanted < 0).any(1) | ((wanted.sum(1) - 1).abs() > SUM_TOLERANCE)).sum())
    if off:
        raise ShapeError(f"wanted_distribution should hold probabilities that sum to 1, got {off} rows that do not")
    wanted = wanted / wanted.sum(1, keepdim=True)  # or a sum of 1 + 1e-7 could make the divergence negative
    divergence = torch.special.xlogy(wanted, wanted) - wanted * target_logits.double().log_softmax(1)
    return divergence.sum(1).clamp(min=0)  # rounding leaves some just below zero
