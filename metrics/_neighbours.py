"""How two sets of images lie in each other: exact answers from fast products.

Distances are squared, in float64. A matrix product gives |x|² + |y|² − 2 x·y for many pairs at once, with an error that
has a bound. Where the bound leaves open which of two numbers is smaller, the distance is taken again as it is defined,
Σ_d (x_d − y_d)². So equal rows are exactly 0 apart, ties are ties, and no answer depends on blocks or on the order of
rows. (Another device may add the terms in another order: it may decide otherwise where distances differ by rounding.)
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import Undefined
from metrics._shared import shared

BLOCK = 2**23  # entries of a distance matrix at once: bounds memory only
DIFFERENCES = 2**24  # numbers at once where distances are taken as they are defined: bounds memory only
LARGEST = 1e150  # of a feature: squares stay finite


class Neighbourhoods(NamedTuple):
    """How N generated and M real images lie in each other.

    An image's ball reaches to its k-th nearest other image of its own side, and is open: what is exactly so far away
    lies outside. Where a side has no more than k images its balls are empty.

    Args:
        real_balls: (N,) float64, the number of real images in whose ball a generated image lies.
        generated_balls: (M,) float64, the number of generated images in whose ball a real image lies.
        covered: (M,) bool, whether some generated image lies in the real image's ball.
        strangers: (N,) float64, 1 where a real image is nearer to a generated one than every other generated image, 1/2
            where the nearest of both are equally near, 0 elsewhere.
        real_strangers: (M,) the same for real images, the sides exchanged.
    """

    real_balls: Tensor
    generated_balls: Tensor
    covered: Tensor
    strangers: Tensor
    real_strangers: Tensor


@shared
def neighbourhoods(*, generated: Tensor, real: Tensor, k: int = 5, block: int = BLOCK) -> Neighbourhoods | Undefined:
    """What all metrics of neighbours need to know, from one pass over each set and one over both.

    Args:
        generated: (N, D) finite features, N ≥ 1.
        real: (M, D) the same of the reference images, M ≥ 1.
        k: which neighbour is as far away as the ball is large, k ≥ 1.
        block: entries of a distance matrix at once; it bounds memory and changes nothing else.
    """
    if max(float(side.abs().max()) for side in (generated, real)) > LARGEST:
        return Undefined("the features are too large to be squared")
    ours, theirs = _side(generated, k, block), _side(real, k, block)
    rows, columns = generated[ours.first], real[theirs.first]
    real_balls, least = [], []
    generated_balls = torch.zeros_like(theirs.ball)
    real_least = torch.full_like(theirs.ball, torch.inf)
    for here, squares, error in _blocks(rows, columns, block):
        ball, sibling = ours.ball[here, None], ours.sibling[here, None]
        unsettled = torch.zeros_like(squares, dtype=torch.bool)
        for bar in (ball, sibling, theirs.ball, theirs.sibling):
            unsettled |= (squares - bar).abs_() <= error
        _settle(squares, unsettled, rows[here], columns)
        real_balls.append((squares < theirs.ball).double() @ theirs.counts)
        generated_balls += ours.counts[here] @ (squares < ball).double()
        least.append(squares.amin(1))
        real_least = torch.minimum(real_least, squares.amin(0))
    return Neighbourhoods(
        torch.cat(real_balls)[ours.place],
        generated_balls[theirs.place],
        (real_least < theirs.ball)[theirs.place],
        _strangers(torch.cat(least), ours),
        _strangers(real_least, theirs),
    )


class _Side(NamedTuple):
    """The U different rows of one set: a thousand copies of an image are no more work than one.

    Args:
        first: (U,) int64, the first image with each row.
        place: (N,) int64, which row each image has.
        counts: (U,) float64, how many images have it.
        ball: (U,) float64 squared distance to the k-th nearest other image, 0 where there is none.
        sibling: (U,) float64 squared distance to the nearest other image, infinite where there is none.
    """

    first: Tensor
    place: Tensor
    counts: Tensor
    ball: Tensor
    sibling: Tensor


@shared
def _side(features: Tensor, k: int, block: int) -> _Side:
    rows, place, counts = torch.unique(features, dim=0, return_inverse=True, return_counts=True)
    images = torch.arange(len(features), device=features.device)
    first = torch.full_like(counts, len(features)).scatter_reduce(0, place, images, "amin")
    needed = min(k + 1, len(rows))  # different rows, the row itself among them
    ranks = torch.tensor([[k], [1]], device=features.device)
    found = []
    for here, squares, error in _blocks(rows, rows, block):
        reach = (squares + error).topk(needed, largest=False).values[:, -1:]  # the needed lie within
        _settle(squares, squares - error <= reach, rows[here], rows)
        near = squares.topk(needed, largest=False)
        others = counts[near.indices].cumsum(1) - 1  # images so near or nearer, but for the row's own
        which = (others[:, None] < ranks).sum(2)  # (B, 2), `needed` where there is none
        found.append(F.pad(near.values, (0, 1), value=torch.inf).gather(1, which))
    ball, sibling = torch.cat(found).unbind(1)
    return _Side(first, place, counts.double(), ball.masked_fill(ball.isinf(), 0), sibling)


def _strangers(least: Tensor, side: _Side) -> Tensor:
    """1, 1/2 or 0 for each image: the nearest of the other side is nearer than its sibling, as near, or farther."""
    return ((side.sibling - least).sign() / 2 + 0.5)[side.place]


def _blocks(rows: Tensor, columns: Tensor, block: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Squared distances between (U, D) rows and (V, D) columns: which rows, (B, V) distances, and their errors.

    With rounding u, an inner product of D terms is off by D·u·|x||y| at most. Centring, product and sums together, and
    the definition's own sum, are then less than (4 D + 16)·u·(|x|² + |y|²) from the truth; eps is twice u.
    """
    centre = columns.mean(0, dtype=torch.float64)  # moves no distance, but keeps the lengths and so the error small
    wide = columns.double() - centre
    lengths = wide.square().sum(1)
    bound = (4 * rows.shape[1] + 16) * torch.finfo(torch.float64).eps
    size = max(1, block // len(columns))
    for start in range(0, len(rows), size):
        here = slice(start, start + size)
        part = rows[here].double() - centre
        both = part.square().sum(1, keepdim=True) + lengths
        yield here, torch.addmm(both, part, wide.T, alpha=-2), both.mul_(bound)


def _settle(squares: Tensor, unsettled: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Take the distances of the unsettled pairs as they are defined."""
    i, j = unsettled.nonzero(as_tuple=True)
    size = max(1, DIFFERENCES // rows.shape[1])
    for a, b in zip(i.split(size), j.split(size), strict=True):
        squares[a, b] = (rows[a].double() - columns[b].double()).square_().sum(1)
