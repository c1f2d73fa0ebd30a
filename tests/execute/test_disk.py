"""A disk that fills up: nothing half-written stays, and the same command goes on once there is space."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from bench.contract import Diverged
from bench.execute.cell import Run
from bench.execute.lab import Lab
from bench.execute.worker import Answer, Order, _carry_out
from bench.plan.cells import Cell, Plan
from bench.record import Store, StoreFull
from tests.execute import tiny
from tests.execute.conftest import Finished

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
WRITERS = {  # what writes → the track whose cell writes with it
    "bench.execute.cell.save_file": "attribution",
    "bench.execute.cell.cell_sheet": "attribution",
    "bench.record.store.write_synced": "attribution",
    "bench.zoo.weights.save_weights": "training",
}


def whole(store: Store) -> bool:
    """Every record can be read with all its files, and nothing is left of those that could not be written."""
    for key in store.keys():  # noqa: SIM118 - the store is no mapping
        store.read(key, artifacts=True)
    folders = {path.name for path in (store.root / "cells").iterdir()}
    return folders == set(store.keys()) and list((store.root / "staging").iterdir()) == []


def raising(problem: Exception) -> Any:
    def write(*words: Any, **options: Any) -> None:
        raise problem

    return write


@pytest.mark.parametrize("problem", [NO_SPACE, OSError(errno.EDQUOT, "Disk quota exceeded")], ids=["full", "quota"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_no_trace_of_the_cell(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch, writer: str, problem: OSError
):
    cell = tiny.find(plan, WRITERS[writer], "" if WRITERS[writer] == "training" else "random_map")
    needs = [one for one in plan.cells if one.key in cell.needs]
    tiny.run_here(needs, store)
    with monkeypatch.context() as patch:
        patch.setattr(writer, raising(problem))
        with pytest.raises(StoreFull):
            tiny.run_here([cell], store)
    assert not store.has(cell.key) and whole(store)
    (record,) = tiny.run_here([cell], store)
    assert record.status == "ok" and whole(store)


def test_safetensors_own_words_for_a_full_disk_are_understood(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
):
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    monkeypatch.setattr("bench.execute.cell.save_file", raising(SafetensorError(words)))
    with pytest.raises(StoreFull):
        tiny.run_here([tiny.find(plan, "training")], store)
    assert store.keys() == [] and whole(store)


def test_no_other_trouble_with_a_file_is_taken_for_a_full_disk(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bench.zoo.weights.save_weights", raising(OSError(errno.EIO, "Input/output error")))
    (record,) = tiny.run_here([tiny.find(plan, "training")], store)
    assert (record.status, record.error) == ("failed", "OSError: [Errno 5] Input/output error")


# ---- a worker ------------------------------------------------------------------------------------------------------


def answer_of(cell: Cell, store: Store) -> Answer:
    return _carry_out(Order(cell), Lab(store, None, torch.device("cpu")), Run("test", "tiny", "0.1.0"))


@pytest.mark.parametrize("place", ["bench.execute.worker.run_cell", "filelock.FileLock.acquire"])
def test_a_worker_says_that_the_disk_is_full(plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch, place: str):
    monkeypatch.setattr(place, raising(NO_SPACE))
    assert answer_of(tiny.find(plan, "training"), store).kind == "full"


def test_a_worker_calls_our_own_fault_broken_and_goes_on(plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("bench.execute.worker.run_cell", raising(Diverged("that should have been caught\nsecond line")))
        answer = answer_of(tiny.find(plan, "training"), store)
    assert (answer.kind, answer.error) == ("broken", "Diverged: that should have been caught")
    assert answer_of(tiny.find(plan, "training"), store).status == "ok"


# ---- a real one ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, spare_bytes: int) -> Path:
    """A file that leaves so much room."""
    filler = disk / "filler"
    state = os.statvfs(disk)
    filler.write_bytes(bytes(state.f_bavail * state.f_frsize - spare_bytes))
    return filler


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("spare_kib", [0, 40, 700])
def test_a_run_stops_when_the_disk_is_full_and_goes_on_when_it_is_not(
    plan: Plan, finished: Finished, small_disk: Path, spare_kib: int
):
    store = tiny.make_store(small_disk)
    filler = fill(small_disk, spare_kib * 1024)
    outcome, _ = tiny.run_in_workers(plan, store)
    assert outcome.full and outcome.exit_status == 1
    assert whole(store)
    assert len(store.keys()) < len(plan.cells)
    filler.unlink()
    cells = [cell for cell in plan.cells if cell.track in ("training", "attribution")]
    tiny.run_here([cell for cell in cells if not store.has(cell.key)], store)
    assert tiny.all_numbers(store, cells) == tiny.all_numbers(finished.store, cells)
