"""What the harness keeps of a method that trains: its report, how it diverged, and that a bad subject is refused."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.execute.cell import rescore
from bench.execute.lab import Lab
from bench.plan.cells import Cell, Plan
from bench.record import TENSORS, Record, Store
from tests.execute import tiny

SETTINGS = {"width": 1, "latent": 4, "batch_size": 20, "steps": 3, "dropout": "none"}
SUBJECT = "mlp.digits.sgd"


def plan_with(folder: Path, settings: Mapping[str, Any], **changes: Any) -> Plan:
    named = {"name": "network_inversion", "variant": "tiny", "settings": SETTINGS | settings}
    block = {"methods": [named], "images": 20, "budget": 20, "metrics": ["inversion_accuracy"]}
    return tiny.plan_of(folder, tracks={"inversion": block}, referee=None, **changes)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A store with the trained subject, not to be changed, and the record of its training."""
    folder = tmp_path_factory.mktemp("subject")
    (record,) = tiny.run_here(plan_with(folder, {}).cells[:1], tiny.make_store(folder))
    return folder, record


Run = Callable[..., tuple[Record, Cell, Store]]


@pytest.fixture
def run_generator(subject: tuple[Path, Record], tmp_path: Path) -> Run:
    """(settings, changes of the suite) → one cell of ``network_inversion`` in a store of its own."""

    def run(settings: Mapping[str, Any] | None = None, **changes: Any) -> tuple[Record, Cell, Store]:
        shutil.copytree(subject[0], tmp_path, dirs_exist_ok=True)
        cell = tiny.find(plan_with(tmp_path, settings or {}, **changes), "inversion", variant="tiny")
        store = Store.open(tmp_path / "store")
        (record,) = tiny.run_here([cell], store)
        return record, cell, store

    return run


def test_the_record_keeps_what_a_method_reports_of_its_training(run_generator: Run):
    record, cell, store = run_generator()
    assert (record.status, record.error) == ("ok", "")
    report = store.read(cell.key).notes["report"]
    assert report == record.notes["report"] == json.loads(json.dumps(report))
    assert report["counts"]["steps"] == 3 and report["history"]["step"] == [1, 2, 3]
    assert all(len(column) == 3 for column in report["history"].values())
    passes = 8 + 3 * report["counts"]["passes_per_step"]
    assert record.cost.forward_passes + record.cost.backward_passes == passes, "a report costs nothing"
    lab = Lab(store, None, torch.device("cpu"))
    assert rescore(cell, lab, copy.deepcopy(record)).notes["report"] == report


def test_a_training_that_diverges_leaves_the_step_the_terms_and_no_reading(run_generator: Run):
    record, cell, store = run_generator({"step_size": 1e36})
    assert record.status == "diverged"
    assert record.error.startswith("the loss nan at step 2: kl nan, cross_entropy nan, cosine nan, orthogonality nan")
    assert not record.readings and "report" not in record.notes
    assert not (store.cell(cell.key) / TENSORS).exists()


# ---- gates ---------------------------------------------------------------------------------------------------------


def test_a_subject_below_its_gate_is_refused(run_generator: Run, subject: tuple[Path, Record]):
    record, cell, store = run_generator(gates={SUBJECT: 0.999})
    (accuracy,) = [reading.value for reading in subject[1].readings if reading.stem == "top1"]
    assert record.status == "skipped"
    assert record.error.startswith(f"{SUBJECT} has a clean accuracy of {accuracy:.3f}, its gate is 0.999")
    assert record.cost.forward_passes in (None, 0) and not record.readings
    assert not (store.cell(cell.key) / TENSORS).exists()


@pytest.mark.parametrize("gate", [0.999, 0.1])
def test_a_forced_row_is_marked_where_it_would_have_been_refused(run_generator: Run, gate: float):
    record, cell, store = run_generator(gates={SUBJECT: gate}, override_gates=True)
    assert record.status == "ok"
    assert len(load_file(store.cell(cell.key) / TENSORS)["generated"]) == 20
    noted = {name: record.notes[name] for name in ("gate_overridden", "gate") if name in record.notes}
    assert noted == ({"gate_overridden": True, "gate": 0.999} if gate == 0.999 else {})
