"""How much of its time the ``smoke`` suite spends on science: ``python tests/perf/bench_smoke_share.py [workers]``.

Runs the whole suite into a temporary store, some minutes on two cores, and compares

- work: the seconds of all methods and trainings (``cost.wall_s``) and of all metrics (``readings.seconds``), with
- busy: what the workers spent on cells from order to answer, and
- there: what they spent between their first readiness and the end of the last cell, waiting for orders included.

Bar: work is 80 % of both or more. What a worker's own start and the making of boards cost is shown without a bar.
Exit status 1 when it is missed, or when a cell does not end well.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.execute.runner import Runner, index_of
from bench.leaderboard import build, write
from bench.plan.cells import Cell, make_plan
from bench.plan.suite import load_suite
from bench.record import Record, Store
from tests.perf.verdict import Verdict

BAR_PERCENT = 80.0


class Clock:
    """Watches a run and remembers when its workers were ready, and what each track's cells took them."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.waiting_for: set[str] = set()  # the first cell of each worker
        self.ready: list[float] = []
        self.busy_s: Counter[str] = Counter()
        self.end = 0.0

    def started(self, cell: Cell) -> None:
        if len(self.ready) + len(self.waiting_for) < self.workers:
            self.waiting_for.add(cell.key)

    def finished(self, cell: Cell, status: str, error: str, seconds: float, ran: bool) -> None:
        if status not in ("ok", "skipped"):
            raise SystemExit(f"{cell} is {status}: {error}")
        self.end = time.perf_counter()
        self.busy_s[cell.track] += seconds
        if cell.key in self.waiting_for:
            self.waiting_for.remove(cell.key)
            self.ready.append(self.end - seconds)

    def say(self, line: str) -> None:
        print(line, flush=True)

    def tick(self) -> None:
        pass


def work_of(record: Record) -> float:
    """Seconds in the method or training, and in metrics."""
    return (record.cost.wall_s or 0.0) + sum(reading.seconds or 0.0 for reading in record.readings)


def main(workers: int) -> int:
    """Run, compare and print; 1 when too little of the time was work."""
    verdict = Verdict()
    plan = make_plan(load_suite("smoke"), None)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store")
        store.write_index(index_of(plan))
        clock, started = Clock(workers), time.perf_counter()
        Runner(plan, plan.cells, store, None, clock, workers=workers).go()
        ended = time.perf_counter()
        work_s: Counter[str] = Counter()
        for cell in plan.cells:
            work_s[cell.track] += work_of(store.read(cell.key))
        write(build(store, plan.suite.board), Path(folder) / "boards")
        boards_s = time.perf_counter() - ended
    for track, busy_s in clock.busy_s.items():
        verdict.only(f"{track}: {work_s[track]:.1f} of {busy_s:.1f} s are work", 100 * work_s[track] / busy_s, "%")
    work, busy = work_s.total(), clock.busy_s.total()
    there = sum(clock.end - ready for ready in clock.ready)
    verdict.only(f"{len(plan.cells)} cells, {workers} workers, start to end", ended - started, "s")
    verdict.only("until the last worker was ready", max(clock.ready) - started, "s")
    verdict.only("boards", boards_s, "s")
    verdict.at_least(f"work, {work:.1f} of {busy:.1f} s busy", 100 * work / busy, BAR_PERCENT, "%")
    verdict.at_least(f"work, {work:.1f} of {there:.1f} s there", 100 * work / there, BAR_PERCENT, "%")
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 2))
