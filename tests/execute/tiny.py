"""A suite of seconds: one small network trained for one epoch, every track alive, and ways to run and compare it."""

import contextlib
import csv
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from bench.contract import TIMED_UNITS
from bench.execute.cell import Run, run_cell
from bench.execute.lab import Lab
from bench.execute.runner import Outcome, Runner, _Worker
from bench.execute.worker import Answer, Setup, _carry_out
from bench.plan.cells import Cell, Plan, make_plan
from bench.plan.suite import load_suite
from bench.record import Record, Store

ROOT = Path(__file__).resolve().parents[2]
FAULTY = Path(__file__).with_name("faulty.py")
# Columns of results.csv that two runs of one suite may differ in: time, machine and state of the checkout.
TIMING = ("wall_s", "gpu_s", "gpu_peak_mib")
PROVENANCE = ("run_id", "started_utc", "host", "code_sha", "code_dirty")
NUMBERS = ("value", "std", "ci_low", "ci_high")  # of a reading; a timed one is compared without them

SUITE: Mapping[str, Any] = {
    "suite": "tiny",
    "version": "0.1.0",
    "protocol": 1,
    "dataset": "digits",
    "seeds": [0],
    "batch_size": 8,
    "timeout_s": 60,
    "subjects": ["mlp.digits.sgd"],
    "referee": "mlp.digits.sgd",
    "recipes": {"default": {"epochs": 1, "batch_size": 32, "warmup_epochs": 0, "images": 200}},
    "real_images": 30,
    "tracks": {
        "training": {"subjects": ["mlp"], "methods": ["sgd"]},
        "reconstruction": {"conditions": ["hidden1"], "methods": ["feature_matching"], "images": 4, "budget": 20},
        "inversion": {"methods": ["noise_search", "pixel_ascent", "real_images"], "images": 10, "budget": 20},
        "visualization": {
            "conditions": ["class"],
            "methods": ["pixel_ascent"],
            "images": 10,
            "budget": 20,
            "references": 20,
        },
        "adversarial": {"conditions": ["linf_51_255"], "methods": ["fgsm", "pgd"], "images": 10, "budget": 90},
        "detection": {
            "conditions": ["pgd_linf_51_255"],
            "methods": ["max_softmax"],
            "images": 10,
            "budget": 90,
            "references": 20,
        },
        "attribution": {"methods": ["gradient", "random_map"], "images": 10, "budget": 10},
    },
}


def faults(*names: str, **block: Any) -> dict[str, Any]:
    """A suite whose methods do wrong, each in its own way: one cell a name, and one that does right in between."""
    methods: list[Any] = []
    for name in names:
        methods += [{"name": "faulty", "variant": name, "settings": {"fault": name}}]
    track = {"conditions": ["linf_51_255"], "images": 10, "budget": 90, "methods": methods} | block
    return {**SUITE, "suite": "faults", "referee": None, "tracks": {"adversarial": track}}


def blocks(suite: Mapping[str, Any]) -> list[Any]:
    """The blocks of a suite's adversarial track."""
    return [suite["tracks"]["adversarial"]]


def on_two_data_sets(folder: Path, **changes: Any) -> dict[str, Any]:
    """A suite on the digits, two seeds, and on pictures of a dark and a bright class, one seed and another recipe."""
    for name, brightness in (("dark", 60), ("bright", 180)):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(40):
            noise = np.random.default_rng([brightness, number]).normal(brightness, 30, (16, 16, 3))
            picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            picture.save(folder / "photos" / name / f"{number}.png")
    common = {name: SUITE[name] for name in ("version", "protocol", "batch_size", "timeout_s", "recipes")}
    tracks = {
        "training": {"subjects": ["mlp"], "methods": ["sgd"]},
        "inversion": {
            "methods": ["pixel_ascent", "noise_search"],
            "images": 8,
            "budget": 20,
            "metrics": ["referee_agreement", "inversion_accuracy"],
        },
    }
    pictures = {
        "folder": str(folder / "photos"),
        "seeds": [7],
        "subjects": ["mlp.imagefolder.sgd"],
        "referee": "mlp.imagefolder.adamw",
        "recipes": {"default": {"epochs": 2, "images": 40}},
        "real_images": 8,
    }
    steps = [{"method": "pixel_ascent"}, {"method": "noise_search"}]
    claim = {"claim": "Steps beat chance.", "track": "inversion", "metric": "referee_agreement", "pairs": [steps]}
    suite = {
        **common,
        "suite": "two",
        "seeds": [0, 1],
        "tracks": tracks,
        "claims": [claim],
        "datasets": {
            "digits": {"subjects": ["mlp.digits.sgd"], "referee": "mlp.digits.adamw", "real_images": 30},
            "imagefolder": pictures,
        },
    }
    return suite | changes


def write_suite(place: Path, suite: Mapping[str, Any] = SUITE, /, **changes: Any) -> Path:
    """The suite as a file named after it."""
    text = {**suite, **changes}
    return write_yaml(place / f"{text['suite']}.yaml", text)


def write_yaml(path: Path, text: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(text)), encoding="utf-8")
    return path


def plan_of(place: Path, suite: Mapping[str, Any] = SUITE, /, **changes: Any) -> Plan:
    return make_plan(load_suite(str(write_suite(place, suite, **changes))), None)


def find(plan: Plan, track: str, method: str = "", variant: str = "default") -> Cell:
    """The suite's own cell of a track, or of one of its methods."""
    (cell,) = [c for c in plan.wanted if c.track == track and method in ("", c.method) and c.variant == variant]
    return cell


# ---- running -------------------------------------------------------------------------------------------------------


def make_store(folder: Path) -> Store:
    store = Store.create(folder / "store")
    for name in ("locks", "logs"):
        (store.root / name).mkdir(exist_ok=True)
    return store


def run_here(cells: Iterable[Cell], store: Store, lab: Lab | None = None) -> list[Record]:
    """Every cell, in this process, one after the other, as a worker would."""
    lab = lab or Lab(store, None, torch.device("cpu"))
    return [run_cell(cell, lab, Run("test", "tiny", "0.1.0")) for cell in cells]


class Silent:
    """A watcher that remembers what was said and which cells were worked on."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ran: list[str] = []
        self.ticks = 0

    def started(self, cell: Cell) -> None:
        pass

    def finished(self, cell: Cell, status: str, error: str, seconds: float, ran: bool, *rest: Any) -> None:
        if ran:
            self.ran.append(cell.key)

    def say(self, line: str) -> None:
        self.said.append(line)

    def tick(self) -> None:
        self.ticks += 1


class ThreadWorker(_Worker):
    """A worker that is a thread of this process: what the runner does is the same, and nothing has to be imported."""

    def __init__(self, setup: Setup) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        listen, self.lifeline = multiprocessing.Pipe(duplex=False)
        self.setup, self.cell, self.is_ready, self.log_start = setup, None, False, 0
        self.since = time.monotonic()
        thread = threading.Thread(target=self._serve, args=(theirs,), daemon=True)
        thread.start()
        # `listen` stays silent, as the sentinel of a living process does
        self.process = SimpleNamespace(sentinel=listen, is_alive=thread.is_alive, join=thread.join, exitcode=None)

    def _serve(self, pipe: Any) -> None:
        lab = Lab(Store.open(self.setup.store), self.setup.root, torch.device("cpu"))
        pipe.send(Answer("", "ready"))
        with contextlib.suppress(EOFError, OSError):
            while order := pipe.recv():
                pipe.send(_carry_out(order, lab, self.setup.run))

    def end(self, patience_s: float = 0.0) -> None:
        """A thread cannot be killed: it ends by itself when nobody is at the other end of its pipe."""
        self.pipe.close()
        self.lifeline.close()
        self.process.join()


def run_in_workers(
    plan: Plan, store: Store, cells: Iterable[Cell] | None = None, workers: int = 1, **flags: bool
) -> tuple[Outcome, Silent]:
    watcher = Silent()
    chosen = plan.cells if cells is None else list(cells)
    return Runner(plan, chosen, store, None, watcher, workers=workers, **flags).go(), watcher


def command(*words: object, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """``run_bench.py`` in a process group of its own, its output in ``folder``/said.txt."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment.pop("GLASSBENCH_DATA", None)
    with (folder / "said.txt").open("a", encoding="utf-8") as said:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "run_bench.py"), *map(str, words)],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )


def run_command(folder: Path, suite: Path, *words: object) -> list[str]:
    """The words of a run whose store and boards lie in ``folder``; it checks no known answers, which takes seconds."""
    places = ("--store", folder / "store", "--leaderboards", folder / "boards", "--workers", 1, "--no-selftest")
    return [str(word) for word in ("run", suite, *places, *words)]


# ---- comparing -----------------------------------------------------------------------------------------------------


def results(folder: Path, board: str = "tiny") -> list[dict[str, str]]:
    """Rows of results.csv without what may differ between two runs."""
    with (folder / "boards" / board / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and set(TIMING + PROVENANCE + NUMBERS) <= rows[0].keys()

    def same(row: dict[str, str]) -> dict[str, str]:
        may_differ = {*TIMING, *PROVENANCE, *(NUMBERS if row["unit"] in TIMED_UNITS else ())}
        return {name: text for name, text in row.items() if name not in may_differ}

    return [same(row) for row in rows]


def numbers(record: Record, store: Store) -> dict[str, Any]:
    """All that a cell came to but the numbers of clocks, in a form that is equal only when every bit is."""
    values = {name: array.tobytes() for name, array in sorted(store.values(record).items())}
    cost = (record.cost.forward_passes, record.cost.backward_passes, record.cost.n_images)
    readings = {
        reading.metric: (reading.status, reading.value if reading.unit not in TIMED_UNITS else "timed", reading.error)
        for reading in record.readings
    }
    found = {name: record.provenance.get(name) for name in ("artifact_sha256", "weights_sha256", "attack_sha256")}
    return {"status": record.status, "cost": cost, "readings": readings, "values": values, **found}


def all_numbers(store: Store, cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
    return {str(cell): numbers(store.read(cell.key, artifacts=True), store) for cell in cells}


def files_below(folder: Path) -> Iterator[str]:
    yield from sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
