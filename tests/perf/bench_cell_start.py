"""How soon a warm worker starts a cell: ``python tests/perf/bench_cell_start.py [rounds]``.

A real worker process gets orders through its pipe, one cell of each track that looks into a subject, on two networks,
with methods that cost little and no metrics. In the first round everything is loaded; in the others each cell is
ordered again by force, and the figure is the median over rounds of the wall time from sending the order to receiving
the answer, less the method's own ``cost.wall_s``. This is more than the start: the record is written in it too. Bar:
0.3 s for each cell. Exit status 1 when one misses it.

Shown without a bar: the same for the first cell on a network that the worker has not loaded yet.
"""

import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.execute.worker import Order, Setup, serve
from bench.plan.cells import Cell
from bench.record import Store
from tests.perf.verdict import Verdict
from tests.perf.workplace import RUN, plan_of

BAR_S = 0.3
IMAGES = 100
NETWORKS = ("cnn", "mlp")
ALWAYS = "9999"  # run again what started before this time
TRACKS = {
    "reconstruction": {"methods": ["feature_matching"], "conditions": ["penultimate"], "images": 20, "budget": 2},
    "inversion": {"methods": ["real_images"], "images": IMAGES},
    "visualization": {"methods": ["real_images"], "conditions": ["class"], "images": IMAGES},
    "adversarial": {"methods": ["fgsm"], "conditions": ["linf_51_255"], "images": IMAGES},
    "detection": {"methods": ["max_softmax"], "conditions": ["fgsm_linf_51_255"], "images": IMAGES},
    "attribution": {"methods": ["random_map"], "images": IMAGES},
}


class Worker:
    """A worker process with the two ends that it hears."""

    def __init__(self, store: Store) -> None:
        self.store = store
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        listen, self.lifeline = context.Pipe(duplex=False)
        setup = Setup(store.root, None, "cpu", 1, store.root / "logs" / "worker.log", (), RUN)
        self.process = context.Process(target=serve, args=(theirs, listen, setup), daemon=True)
        self.process.start()
        self.pipe.recv()  # it is ready

    def around_method_s(self, cell: Cell) -> float:
        """Seconds from order to answer that were not the method's."""
        started = time.perf_counter()
        self.pipe.send(Order(cell, since=ALWAYS))
        answer = self.pipe.recv()
        seconds = time.perf_counter() - started
        if answer.status != "ok":
            raise SystemExit(f"{cell} is {answer.status}: {answer.error}")
        return seconds - (self.store.read(cell.key).cost.wall_s or 0.0)

    def end(self) -> None:
        """Let the process go."""
        self.pipe.send(None)
        self.process.join(10)


def main(rounds: int) -> int:
    """Measure and print; 1 when a cell starts too late."""
    verdict = Verdict()
    cells = plan_of(NETWORKS, TRACKS).cells
    asked = [cell for cell in cells if cell.track != "training"]
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store")
        for kind in ("locks", "logs"):
            (store.root / kind).mkdir()
        worker = Worker(store)
        first = {cell.key: worker.around_method_s(cell) for cell in cells}
        taken = {cell.key: [] for cell in asked}
        for _ in range(rounds):
            for cell in asked:
                taken[cell.key].append(worker.around_method_s(cell))
        worker.end()
    for cell in asked:
        seconds = taken[cell.key]
        verdict.at_most(f"{cell} (slowest {max(seconds):.2f})", statistics.median(seconds), BAR_S, "s")
    second = next(cell for cell in asked if cell.subject.startswith(NETWORKS[1]))
    verdict.only(f"{second}, its network not loaded yet", first[second.key], "s")
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 7))
