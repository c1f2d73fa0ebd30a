"""What the harness adds to an optimisation: ``python tests/perf/bench_overhead.py [--seconds 60] [--networks cnn …]``.

Compares an ``inversion/pixel_ascent`` cell with a bare loop: the same network with its normalisation written out, the
same starting pixels, labels, optimiser and number of steps, no wrapper. The two take turns inside one process, a
fraction of a second each (the cell is held when it calls the subject and its turn is over), so that whatever else the
machine does falls on both. The bare loop runs with torch's own switches, not with those that make a cell repeatable.
The images that both make must be equal.

Two figures for each network, in percent above the bare loop's wall time:

- method: the cell's ``cost.wall_s``: wrapper, counting of passes, cutting into batches, checks of the answer;
- cell: the whole of ``run_cell``: besides, building the task, the subject's checksum, saving images, contact sheet and
  record. Metrics are left out.

Both networks are held to the bar. The ``mlp``, of whose 64 images a step takes no more than a few milliseconds, shows
the wrapper's fixed cost at its worst, and misses it: 5.2 % on an idle machine with two cores.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench import registry
from bench.contract import InversionTask
from bench.execute.lab import Lab
from bench.execute.tracks import batches, stored_tensors, whole_task
from bench.plan.cells import Cell
from tests.perf.verdict import Verdict
from tests.perf.workplace import lab_in, plan_of, run

BAR_PERCENT = 3.0
TURN_S = 0.25  # about, of the bare loop
IMAGES = 128
WARM_UP_STEPS = 20
Normalise = Callable[[Tensor], Tensor]


def bare_loop(model: Any, tasks: list[InversionTask], steps: int, turn: int, made: list[Tensor]) -> Iterator[float]:
    """Ascend without the harness; gives way after every ``turn`` steps with the seconds that they took.

    Args:
        model: only for the network in it and its normalisation.
        tasks: only for their starting pixels and labels.
        steps: for each task, a multiple of ``turn``.
        made: takes the images.
    """
    settings = registry.load_method("inversion/pixel_ascent")()
    network, mean, std = model.network, model.mean, model.std
    for task in tasks:
        started = time.perf_counter()
        pixels = (settings.start_spread * task.noise()).requires_grad_()
        optimiser = torch.optim.Adam([pixels], lr=settings.step_size)
        for step in range(1, steps + 1):
            wanted = network((pixels.sigmoid() - mean) / std).gather(1, task.labels[:, None])
            optimiser.zero_grad()
            (-wanted.sum()).backward()
            optimiser.step()
            if step == steps:
                made.append(pixels.sigmoid().detach())
            if step % turn == 0:
                _wait_for(task.device)
                yield time.perf_counter() - started
                started = time.perf_counter()


class TakeTurns:
    """Stands in for the subject's ``normalise``, and holds the cell at every ``turn``-th call for the bare loop.

    (A hook of torch would do, but costs the cell a fifth of what is to be measured.)

    Attributes:
        bare: seconds of each turn of the bare loop.
        cell: seconds of the cell between two holds; the part after the last hold is in nobody's list.
        held_s: seconds that are no part of the cell's time.
    """

    def __init__(self, normalise: Normalise, loop: Iterator[float], turn: int, device: torch.device) -> None:
        self.normalise, self.loop, self.turn, self.device = normalise, loop, turn, device
        self.calls, self.held_s, self.resumed = 0, 0.0, 0.0
        self.bare: list[float] = []
        self.cell: list[float] = []

    def __call__(self, images: Tensor) -> Tensor:
        if self.calls % self.turn == 0:
            self._hold()
        self.calls += 1
        return self.normalise(images)

    def _hold(self) -> None:
        _wait_for(self.device)
        held = time.perf_counter()
        if self.bare:
            self.cell.append(held - self.resumed)
        torch.use_deterministic_algorithms(False)
        self.bare.append(next(self.loop))
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.resumed = time.perf_counter()
        self.held_s += self.resumed - held


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ascent(network: str, steps: int) -> list[Cell]:
    """The cell with that many steps, and before it what trains its subject."""
    block = {"methods": ["pixel_ascent"], "images": IMAGES, "budget": 2 * steps, "timeout_s": 1e6}
    return list(plan_of([network], {"inversion": block}).cells)


def steps_for(network: str, seconds: float, lab: Lab) -> tuple[int, int]:
    """(steps of a cell that takes about so long, steps of a turn); warms everything up."""
    training, cell = ascent(network, WARM_UP_STEPS)
    run(training, lab)
    wall_s = min(run(cell, lab) for _ in range(3))
    batch_count = -(-IMAGES // int(cell.spec["batch_size"]))
    a_step = wall_s / (batch_count * WARM_UP_STEPS)
    turn = max(1, round(TURN_S / a_step))
    return turn * max(2, -(-int(seconds / (a_step * batch_count)) // turn)), turn


def measure(network: str, seconds: float, lab: Lab, verdict: Verdict) -> None:
    """One cell beside its bare loop."""
    steps, turn = steps_for(network, seconds, lab)
    cell = ascent(network, steps)[-1]
    model: Any = lab.model(cell, cell.subject, cell.subject_key)
    tasks: Any = list(batches(whole_task(cell, lab, model)[0], int(cell.spec["batch_size"])))
    made: list[Tensor] = []
    turns = TakeTurns(model.normalise, bare_loop(model, tasks, steps, turn, made), turn, lab.device)
    model.normalise = turns
    started = time.perf_counter()
    method_s = run(cell, lab) - turns.held_s
    cell_s = time.perf_counter() - started - turns.held_s
    del model.normalise
    bare_s = sum(turns.bare)
    if lab.device.type == "cpu" and not torch.equal(torch.cat(made), stored_tensors(lab.store, cell.key)["generated"]):
        raise SystemExit(f"{network}: the bare loop made other images, so it did other work")
    ratios = [mine / bare for mine, bare in zip(turns.cell, turns.bare, strict=False)]
    name = f"{network}, {len(tasks)} × {steps} steps"
    verdict.only(f"{name}: bare loop", bare_s, "s")
    verdict.only(f"{name}: bare loop", 1000 * bare_s / (len(tasks) * steps), "ms a step")
    for part, wall_s in (("method", method_s), ("cell", cell_s)):
        percent = 100 * (wall_s / bare_s - 1)
        verdict.at_most(f"{name}: {part} above bare", percent, BAR_PERCENT, "%")
    verdict.only(f"{name}: median of {len(ratios)} turns above bare", 100 * (statistics.median(ratios) - 1), "%")


def main() -> int:
    """Measure each network and print; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="Overhead of a pixel_ascent cell over its bare loop.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each cell, at least about")
    parser.add_argument("--networks", nargs="+", default=["cnn", "mlp"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as folder:
        lab = lab_in(Path(folder) / "store")
        for network in asked.networks:
            measure(network, asked.seconds, lab, verdict)
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main())
