"""The loss terms of network inversion, each a function of one batch, as in spec section 4.

All are linear in batch × features in memory but for the absolute cosine, which needs the (B, B) matrix.
Letters besides those of ``bench.contract``: **F** (B, D) features, **F̂** its rows scaled to unit length.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ZERO_NORM = 1e-8  # rows shorter than this count as dead: they have no direction
LEAST_PROBABILITY = 1e-12


def log_probabilities(outputs: Tensor, kind: Literal["logits", "probs"] = "logits") -> Tensor:
    """(B, K) log Q of a subject that returns logits, or probabilities if it says so (then clamped at 1e-12)."""
    return outputs.log_softmax(1) if kind == "logits" else outputs.clamp_min(LEAST_PROBABILITY).log()


def kl_term(wanted: Tensor, log_probs: Tensor) -> Tensor:
    """() batch mean of KL(P‖Q) = Σ_i P_i (log P_i − log Q_i) [follow-up 2505.23448; mean: group code].

    Args:
        wanted: (B, K) P, the conditioning distribution; 0 · log 0 = 0.
        log_probs: (B, K) log Q of the subject: taken from logits once, never from probabilities again.
    """
    return F.kl_div(log_probs, wanted, reduction="batchmean")


def cross_entropy_term(log_probs: Tensor, labels: Tensor) -> Tensor:
    """() batch mean of −log Q_y [paper]."""
    return F.nll_loss(log_probs, labels)


def cosine_term(
    features: Tensor,
    *,
    labels: Tensor | None = None,
    pairs: Literal["all", "same_class"] = "all",
    centre: bool = False,
    absolute: bool = False,
) -> Tensor:
    """() mean of F̂_i · F̂_j over the ordered pairs i ≠ j of the batch, with signs and over all pairs in [−1/(B − 1), 1].

    Source: arXiv:2407.18002 for the term [paper], 2505.23448 for the formula [follow-up]; same-class pairs, centring
    on the batch mean and absolute values are variants [our choice].
    Beware: over all pairs it is at its minimum for one image a class, once class features lie like a simplex.

    Args:
        features: (B, D).
        labels: (B,) int64, needed for same-class pairs.

    Returns:
        the mean; 0 when no two images of the batch make a pair.
    """
    unit = unit_rows(features, centre=centre)
    group = (
        group_numbers(labels)
        if pairs == "same_class" and labels is not None
        else torch.zeros_like(unit[:, 0], dtype=torch.int64)
    )
    if absolute:
        chosen = (group[:, None] == group[None, :]).to(unit) - torch.eye(len(unit), device=unit.device)
        return ((unit @ unit.T).abs() * chosen).sum() / chosen.sum().clamp(min=1)
    sizes = group_sums(torch.ones_like(unit[:, :1]), group)
    inside = group_sums(unit, group).square().sum() - unit.square().sum()
    count = (sizes * (sizes - 1)).sum()
    return inside / count.clamp(min=1) * (count > 0)  # without pairs what is left of the difference is rounding


def orthogonality_term(features: Tensor, *, normalise: bool = True) -> Tensor:
    """() 1/B² Σ_ij (A_ij − 1[i = j])², A the Gram matrix of the rows [follow-up 2411.17777; normaliser recalled].

    Unit rows are our choice: raw ones (``normalise=False``) let the largest norm decide everything. Of unit rows it is
    not below max(0, 1/D − 1/B), the Welch bound [derived]. ‖F̂F̂ᵀ‖ = ‖F̂ᵀF̂‖, so the smaller Gram matrix is made.
    """
    rows = unit_rows(features) if normalise else features
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    squares = rows.square().sum()
    return (gram.square().sum() - 2 * squares + len(rows)) / len(rows) ** 2


def lookalike_term(images: Tensor, labels: Tensor) -> Tensor:
    """() mean of ‖x_i − x_j‖² over pairs of images of different classes; 0 where there are none [our choice]."""
    flat = images.flatten(1)
    flat = flat - flat.mean(0).detach()  # distances stay; sums of squares keep their digits
    group = group_numbers(labels)
    sizes, lengths = group_sums(torch.ones_like(flat[:, :1]), group), flat.square().sum(1, keepdim=True)
    every = 2 * len(flat) * lengths.sum() - 2 * flat.sum(0).square().sum()
    within = 2 * (sizes * group_sums(lengths, group)).sum() - 2 * group_sums(flat, group).square().sum()
    return (every - within) / (len(flat) ** 2 - sizes.square().sum()).clamp(min=1)


def gradient_norm_term(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """() L2 norm, over all parameters of the subject, of the gradient of ``loss`` [follow-up 2410.16884].

    Keeps its own graph: about three times the cost of a plain step.
    """
    gradients = torch.autograd.grad(loss, list(parameters), create_graph=True, allow_unused=True)
    squares: Tensor = torch.stack([gradient.square().sum() for gradient in gradients if gradient is not None])
    return (squares.sum() + torch.finfo(squares.dtype).tiny).sqrt()


def unit_rows(features: Tensor, *, centre: bool = False) -> Tensor:
    """(B, D) rows of unit length, around the batch mean if asked; rows of no length stay 0."""
    if centre:
        features = features - features.mean(0)
    unit: Tensor = F.normalize(features, dim=1, eps=ZERO_NORM)
    return unit


def dead_rows(features: Tensor) -> Tensor:
    """() how many rows have no length, hence no cosine."""
    count: Tensor = (features.norm(dim=1) < ZERO_NORM).sum()
    return count


def group_numbers(labels: Tensor) -> Tensor:
    """(B,) int64 in [0, B), equal where labels are: they are numbered in their order, without asking how many."""
    ordered, order = labels.sort()
    steps = F.pad((ordered[1:] != ordered[:-1]).long(), (1, 0)).cumsum(0)
    return torch.empty_like(order).scatter(0, order, steps)


def group_sums(rows: Tensor, group: Tensor) -> Tensor:
    """(B, D) sum of the rows of each group, zeros for numbers that no row has."""
    return torch.zeros_like(rows).index_add(0, group, rows)
