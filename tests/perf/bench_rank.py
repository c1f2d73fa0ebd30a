"""How long and how much memory ranking takes: ``python tests/perf/bench_rank.py [records] [values]``.

Writes synthetic records into a temporary store, then ranks them in processes of their own, with and without
intervals. Limits, for 10 000 records of 1 000 values: 60 s and 2 GiB with intervals, 10 s without; for 100 records
2 s, imports included. Exit status 1 when one is passed.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.record import Store  # noqa: E402
from tests.right.making import index_of, reading, record  # noqa: E402

RANK = """
import resource, sys, time
from pathlib import Path
start = time.perf_counter()
from bench.leaderboard import build, write
from bench.record import Store
boards = build(Store.open(Path(sys.argv[1])), "smoke", intervals=sys.argv[3] == "True")
write(boards, Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
assert "torch" not in sys.modules
print(time.perf_counter() - start, peak, len(boards.long))
"""


def fill(store: Store, records: int, units: int, methods: int = 10, seeds: int = 3) -> None:
    """Records of ``methods`` methods in ``seeds`` seeds on as many conditions as it takes."""
    generator = np.random.default_rng(0)
    made = []
    for place in range(records):
        seed, rest = place % seeds, place // seeds
        method, condition = rest % methods, rest // methods
        values = generator.normal(method / 100, 1.0, units)
        one = record(
            f"method_{method}",
            seed,
            condition=f"layer{condition}",
            readings=[reading(float(values.mean()), values="ssim", n_scored=units)],
        )
        made.append(store.commit(one, {"ssim": values}, store.stage(one.key)))
    store.write_index(index_of(made))


def rank(store: Path, boards: Path, intervals: bool) -> tuple[float, float, int]:
    """Seconds from start to exit, peak MiB and rows of a process that ranks the store."""
    start = time.perf_counter()
    command = [sys.executable, "-c", RANK, str(store), str(boards), str(intervals)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    _, peak, rows = told.split()
    return time.perf_counter() - start, float(peak), int(rows)


def main(records: int, units: int) -> int:
    """Measure and print; 1 when a limit is passed."""
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        for count, limits in ((100, {True: 2.0, False: 2.0}), (records, {True: 60.0, False: 10.0})):
            store = Store.create(Path(folder) / f"store_{count}")
            start = time.perf_counter()
            fill(store, count, units)
            print(f"{count} records of {units} values written in {time.perf_counter() - start:.1f} s")
            for intervals, limit in limits.items():
                seconds, peak, rows = rank(store.root, Path(folder) / "boards", intervals)
                passed &= seconds <= limit and peak <= 2048
                name = "with" if intervals else "without"
                print(f"  {name} intervals: {seconds:.2f} s (limit {limit:.0f}), {peak:.0f} MiB, {rows} rows")
    return 0 if passed else 1


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(sizes + [10_000, 1_000][len(sizes) :])))
