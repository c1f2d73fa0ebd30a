"""Intervals, ranks and tiers: percentile bootstrap with draws that all rows share.

A *replicate* is the statistic of one draw. Which units a replicate draws depends on its number and on how many units
there are, on nothing else: rows measured on the same images are compared on the same draws (a paired bootstrap), and
so are the seeds of one row, whose images are the same too. **R** replicates, **S** seeds, **n** units (images,
classes), **G** rows that are ranked together.

Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile interval).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Better = Literal["higher", "lower"]

RESAMPLES = 1000
LEVEL = 0.95
DRAW_SEED = 20260901  # part of the protocol: another one moves every interval a little
_ENTRIES_AT_ONCE = 4_000_000  # of a block of draws; bounds memory for sets of any size


def resampled_means(columns: Sequence[Floats], resamples: int = RESAMPLES, seed: int = DRAW_SEED) -> Floats:
    """Means of each column over units drawn with replacement, by matrix products over all columns of one length.

    Args:
        columns: each (n,), n may differ; NaN is a unit without a value and is left out of the means.

    Returns:
        (columns, R); NaN where a replicate drew no unit with a value. Columns of one n share their draws.
    """
    means = np.empty((len(columns), resamples))
    lengths = [len(column) for column in columns]
    for units in sorted(set(lengths)):
        chosen = [i for i, length in enumerate(lengths) if length == units]
        values = np.stack([columns[i] for i in chosen], axis=1)  # (n, columns)
        present = ~np.isnan(values)
        complete = bool(present.all())
        values = values if complete else np.where(present, values, 0.0)
        for block, counts in _draws(units, resamples, seed):
            total = counts @ values  # (block, columns)
            with np.errstate(invalid="ignore"):
                mean = total / units if complete else total / (counts @ present.astype(np.float64))
            means[chosen, block] = mean.T
    return _settled(means)


def _draws(units: int, resamples: int, seed: int) -> Iterator[tuple[slice, Floats]]:
    """Blocks of replicates, each with (block, n): how often a replicate drew each unit."""
    generator = np.random.default_rng([seed, units])
    size = max(1, _ENTRIES_AT_ONCE // units)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = generator.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        yield slice(start, start + rows), counts.astype(np.float64)


def _settled(replicates: Floats) -> Floats:
    """Replicates cut to about twelve digits of their row.

    The last bits of a matrix product depend on where in it a column stands. Without this, two rows with equal values
    would differ by chance, and ties would be broken.
    """
    largest = np.nanmax(np.abs(replicates), axis=-1, initial=0.0, keepdims=True)
    step = np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1.0))) - 40)
    rounded: Floats = np.round(replicates / step) * step
    return rounded


def over_seeds(replicates: Floats, seed: int = DRAW_SEED) -> Floats:
    """Replicates of the mean over seeds, the seeds themselves drawn with replacement.

    Args:
        replicates: (S, R); with S = 1 there is nothing to draw.

    Returns:
        (R,)
    """
    seeds, resamples = replicates.shape
    if seeds == 1:
        only: Floats = replicates[0]
        return only
    drawn = np.random.default_rng([seed, seeds, 1]).integers(0, seeds, (resamples, seeds))
    means: Floats = replicates[drawn, np.arange(resamples)[:, None]].mean(axis=1)
    return _settled(means)


def bootstrap_means(values: Sequence[Floats], resamples: int = RESAMPLES, seed: int = DRAW_SEED) -> Floats:
    """(R,) replicates of the mean over seeds of the mean over units; ``values`` holds one (n,) array a seed."""
    return over_seeds(resampled_means(values, resamples, seed), seed)


def interval(replicates: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Percentile interval along the last axis, (…, R) → two of (…). Replicates without a value are left out."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    quantile = np.nanquantile if np.isnan(replicates).any() else np.quantile
    low, high = quantile(replicates, tails, axis=-1)
    return np.asarray(low), np.asarray(high)


def paired_difference(
    old: Sequence[Floats], new: Sequence[Floats], level: float = LEVEL, seed: int = DRAW_SEED
) -> tuple[float, float, float]:
    """How much larger ``new`` is, and the interval of that, unit by unit on the same units.

    Args:
        old, new: one (n,) array a seed, seeds and units in the same order. A unit counts where both have a value.

    Returns:
        difference of the means, low end, high end.

    Raises:
        ValueError: numbers of seeds or of units differ, or no unit has both values.
    """
    differences = [after - before for before, after in zip(old, new, strict=True)]
    if any(np.isnan(difference).all() for difference in differences):
        raise ValueError("no unit has a value in both")
    low, high = interval(bootstrap_means(differences, seed=seed), level)
    return float(np.mean([np.nanmean(difference) for difference in differences])), float(low), float(high)


def ranks(values: Floats, better: Better) -> Integers:
    """Competition ranks along axis 0, (G, …) → (G, …): 1 + how many rows are strictly better."""
    keys = -values if better == "higher" else values
    order = np.argsort(keys, axis=0, kind="stable")
    ordered = np.take_along_axis(keys, order, axis=0)
    place = np.broadcast_to(np.arange(len(keys)).reshape(-1, *[1] * (keys.ndim - 1)), keys.shape).copy()
    place[1:][ordered[1:] == ordered[:-1]] = 0
    found = np.empty(keys.shape, dtype=np.int64)
    np.put_along_axis(found, order, np.maximum.accumulate(place, axis=0) + 1, axis=0)
    return found


def rank_intervals(replicates: Floats, better: Better, level: float = LEVEL) -> tuple[Integers, Integers]:
    """Best and worst rank of each row when all rows are ranked anew in each replicate, (G, R) → two of (G,).

    The ends are ranks that occurred, taken outwards.
    """
    found = ranks(replicates, better)
    low: Any = np.quantile(found, (1 - level) / 2, axis=1, method="lower")
    high: Any = np.quantile(found, (1 + level) / 2, axis=1, method="higher")
    return low.astype(np.int64), high.astype(np.int64)


def tiers(values: Floats, lows: Floats, highs: Floats, better: Better) -> Integers:
    """Tier of each row, 1 is best, all arguments (G,).

    From the best row downwards: the first row of a tier sets its anchor, the bad end of its own interval; a row
    joins while the good end of its interval reaches the anchor, else it opens the next tier. The anchor does not
    move: neighbours that overlap would otherwise chain everything into one tier.
    """
    sign = 1.0 if better == "higher" else -1.0
    good, bad = (highs, lows) if better == "higher" else (lows, highs)
    found = np.zeros(len(values), dtype=np.int64)
    tier, anchor = 0, np.inf
    for row in np.lexsort((-sign * good, -sign * values)):
        if sign * good[row] < anchor:
            tier, anchor = tier + 1, sign * bad[row]
        found[row] = tier
    return found
