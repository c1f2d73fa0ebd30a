"""The Vendi score of a set of features."""

import torch
from torch import Tensor

from bench.contract import Undefined
from metrics._shared import shared


@shared
def vendi_score(features: Tensor) -> Tensor | Undefined:
    """Effective number of different items among (N, D) finite features, N ≥ 1, under the cosine kernel, of order 1.

    exp(−Σ λ log λ) over the eigenvalues λ of K/N with K_ij = cos(f_i, f_j). X Xᵀ and Xᵀ X share their eigenvalues but
    for zeros, so the smaller of the two is decomposed.

    Returns:
        () float64 in [1, N]; ``Undefined`` when a row is zero and has no direction.
    """
    largest = features.abs().amax(1, keepdim=True)
    zeros = int((largest == 0).sum())
    if zeros:
        return Undefined(f"{zeros} of {len(features)} images have all-zero features, which have no direction")
    unit = features.double() / largest.double()  # squares neither overflow nor vanish
    unit /= torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    gram = unit @ unit.T if unit.shape[0] <= unit.shape[1] else unit.T @ unit
    shares = torch.linalg.eigvalsh(gram / len(unit)).clamp(min=0)  # rounding leaves some just below zero
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()
