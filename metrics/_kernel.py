"""The kernel distance between two sets of features."""

import torch
from torch import Tensor

from bench.contract import Undefined
from metrics._shared import shared

BLOCK = 2**24  # entries of the kernel matrix at once: bounds memory only


def kernel_distance(*, generated: Tensor, real: Tensor, block: int = BLOCK) -> Tensor | Undefined:
    """Unbiased squared maximum mean discrepancy between two sets under k(x, y) = (x·y/D + 1)³, in float64.

    Args:
        generated: (N, D) finite features.
        real: (M, D) the same of the reference images.
        block: entries of the kernel matrix at once; it bounds memory and changes nothing else.

    Returns:
        () float64, 0 on average for equal distributions, and not clipped below; ``Undefined`` when either side has
        fewer than 2 images, or the kernel overflows.
    """
    count, reference_count = len(generated), len(real)
    if count < 2 or reference_count < 2:
        return Undefined(f"a pair needs 2 images, got {count} generated and {reference_count} real")
    within = _mean_of_pairs(generated, block) + _mean_of_pairs(real, block)
    distance = within - 2 * _mean_across(generated, real, block)
    return distance if distance.isfinite() else Undefined("the features are too large for the kernel")


@shared
def _mean_of_pairs(features: Tensor, block: int) -> Tensor:
    """Mean of the kernel over pairs of different rows."""
    count, dimensions = features.shape
    wide, size, sums = features.double(), max(1, block // len(features)), []
    for start in range(0, count, size):
        part, later = wide[start : start + size], wide[start + size :]
        inside = _kernel(part @ part.T, dimensions)
        sums += [inside.sum() - inside.diagonal().sum(), 2 * _kernel(part @ later.T, dimensions).sum()]
    return torch.stack(sums).sum() / (count * (count - 1))


def _mean_across(rows: Tensor, columns: Tensor, block: int) -> Tensor:
    """Mean of the kernel over all pairs of a row and a column."""
    wide = columns.double()
    parts = rows.split(max(1, block // len(columns)))
    sums = [_kernel(part.double() @ wide.T, rows.shape[1]).sum() for part in parts]
    return torch.stack(sums).sum() / (len(rows) * len(columns))


def _kernel(products: Tensor, dimensions: int) -> Tensor:
    """The kernel of pairs with these inner products, which are overwritten."""
    base = products.div_(dimensions).add_(1)
    return base.square().mul_(base)
