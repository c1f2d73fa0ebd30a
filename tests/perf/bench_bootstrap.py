"""How long the bootstrap of a board takes: ``python tests/perf/bench_bootstrap.py [rows] [images]``.

1 000 resamples of 100 rows of 10 000 images, intervals, rank intervals and tiers, on one core. Bar: 5 s. Beside it the
same by ``scipy.stats.bootstrap``, one row after the other, timed on a few rows and scaled to all.
"""

import os
import sys
import time
from pathlib import Path

for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy is loaded
    os.environ[f"{library}_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np  # noqa: E402
from scipy.stats import bootstrap  # noqa: E402

from bench.leaderboard.statistics import RESAMPLES, interval, rank_intervals, resampled_means, tiers  # noqa: E402
from tests.perf.verdict import Verdict  # noqa: E402

BAR_S = 5.0
ROWS_BY_SCIPY = 3


def main(rows: int = 100, images: int = 10_000) -> int:
    """Time both and say how they compare."""
    verdict = Verdict()
    values = [np.random.default_rng(row).normal(row / 100, 1.0, images) for row in range(rows)]
    for name, missing in (("every image has a value", 0), ("one in seven has none", 7)):
        columns = [column.copy() for column in values]
        for column in columns if missing else ():
            column[::missing] = np.nan
        start = time.perf_counter()
        replicates = resampled_means(columns)
        low, high = interval(replicates)
        rank_intervals(replicates, "higher")
        tiers(np.array([np.nanmean(column) for column in columns]), low, high, "higher")
        verdict.at_most(
            f"{RESAMPLES} resamples, {rows} rows, {images} images, {name}", time.perf_counter() - start, BAR_S, "s"
        )
    start = time.perf_counter()
    for column in values[:ROWS_BY_SCIPY]:
        bootstrap((column,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=100, rng=0)
    scaled = (time.perf_counter() - start) / ROWS_BY_SCIPY * rows
    verdict.only(f"scipy.stats.bootstrap, {ROWS_BY_SCIPY} rows timed and scaled to {rows}", scaled, "s")
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
