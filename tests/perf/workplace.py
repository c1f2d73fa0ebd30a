"""A small suite on the embedded digits and a store in which its subjects are trained, for the scripts beside it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.execute.cell import Run, run_cell  # noqa: E402
from bench.execute.environment import best_device  # noqa: E402
from bench.execute.lab import Lab  # noqa: E402
from bench.plan.cells import Cell, Plan, make_plan  # noqa: E402
from bench.plan.suite import Suite  # noqa: E402
from bench.record import Store  # noqa: E402

RUN = Run("perf", "perf", "0.0.0")


def plan_of(networks: Sequence[str], tracks: Mapping[str, Any]) -> Plan:
    """Cells without metrics on subjects that are trained for one epoch: time is all that is asked here."""
    blocks = {track: {"metrics": [], **block} for track, block in tracks.items()}
    suite = {
        "suite": "perf",
        "version": "0.0.0",
        "protocol": 1,
        "dataset": "digits",
        "seeds": [0],
        "subjects": [f"{network}.digits.sgd" for network in networks],
        "recipes": {"default": {"epochs": 1}},
        "real_images": 100,
        "tracks": blocks,
    }
    return make_plan(Suite.model_validate(suite), None)


def lab_in(folder: Path) -> Lab:
    """A warm worker's data and networks, over a new store."""
    return Lab(Store.create(folder), None, best_device())


def run(cell: Cell, lab: Lab) -> float:
    """Run a cell that must end well; seconds inside its method."""
    record = run_cell(cell, lab, RUN)
    if record.status != "ok":
        raise SystemExit(f"{cell} is {record.status}: {record.error}")
    return record.cost.wall_s or 0.0
