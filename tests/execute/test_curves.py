"""The mean curves of attribution cells: what the metrics reduce to areas, taken with a run and added by ``score``."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bench.execute import curves
from bench.execute.cell import Run
from bench.execute.lab import Lab
from bench.execute.state import todo
from bench.execute.worker import Answer, Order, _carry_out
from bench.plan.cells import Cell, Plan
from bench.record import Record, Store
from tests.execute import tiny

METRICS = ("insertion_auc_blur", "insertion_auc_zero", "deletion_auc_zero", "deletion_auc_blur")


@pytest.fixture(scope="module")
def ran(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the networks and the maps of one method. Not to be changed: take a copy."""
    store = tiny.make_store(tmp_path_factory.mktemp("curves"))
    networks = [cell for cell in plan.cells if cell.track == "training"]
    tiny.run_here([*networks, tiny.find(plan, "attribution", "gradient")], store)
    return store


@pytest.fixture
def store(ran: Store, tmp_path: Path) -> Store:
    shutil.copytree(ran.root, tmp_path / "store")
    return Store.open(tmp_path / "store")


@pytest.fixture(scope="module")
def cell(plan: Plan) -> Cell:
    return tiny.find(plan, "attribution", "gradient")


def scored(store: Store, cell: Cell, *, score_only: bool = True, selftest: str = "skipped") -> Answer:
    order = Order(cell, score_only=score_only)
    return _carry_out(order, Lab(store, None, torch.device("cpu")), Run("test", "tiny", "0.1.0", selftest))


def rewritten(store: Store, record: Record, **changes: object) -> Record:
    return store.rewrite(record.model_copy(update=changes), store.values(record))


def without_curves(store: Store, cell: Cell) -> Record:
    """The record as it was before curves were kept."""
    record = store.read(cell.key)
    notes = {name: note for name, note in record.notes.items() if name != "curves"}
    return rewritten(store, record, notes=notes)


@pytest.mark.parametrize("metric", METRICS)
def test_the_area_below_the_mean_curve_is_the_metrics_value(ran: Store, cell: Cell, metric: str):
    record = ran.read(cell.key)
    curve = record.notes["curves"][metric]
    (value,) = [one.value for one in record.readings if one.metric == metric]
    area = sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)
    assert len(curve) == 29 and len(set(curve)) > 10
    assert area == pytest.approx(value, abs=1e-6)


def test_insertion_ends_and_deletion_begins_with_the_images_themselves(ran: Store, cell: Cell):
    lab = Lab(ran, None, torch.device("cpu"))
    places = lab.data(cell).select("test", cell.images)
    model = lab.model(cell, cell.subject, cell.subject_key)
    sure = model(lab.images(cell, "test", places)).double().softmax(1)
    whole = sure[torch.arange(len(places)), lab.labels(cell, "test", places)].mean().item()
    found = ran.read(cell.key).notes["curves"]
    for metric in METRICS:
        assert found[metric][-1 if metric.startswith("insertion") else 0] == pytest.approx(whole, abs=1e-6)


def test_other_tracks_have_none(ran: Store, plan: Plan):
    assert "curves" not in ran.read(tiny.find(plan, "training").key).notes


@pytest.mark.parametrize("selftest", ["pass", "skipped"])
def test_score_adds_them_to_an_old_record_and_changes_nothing_else(
    ran: Store, store: Store, cell: Cell, monkeypatch: pytest.MonkeyPatch, selftest: str
):
    old = without_curves(store, cell)
    old = rewritten(store, old, provenance=old.provenance | {"selftest": "pass"})
    monkeypatch.setattr("bench.execute.cell.make", lambda *anything: pytest.fail("the method was run"))
    answer = scored(store, cell, selftest=selftest)
    new = store.read(cell.key, artifacts=True)
    assert answer.ran and new.notes == ran.read(cell.key).notes
    parts = {"notes", "digests", "readings"}
    assert new.model_dump(exclude=parts) == old.model_dump(exclude=parts)
    assert {one.stem: one for one in new.readings} == {one.stem: one for one in old.readings}
    assert {name: array.tobytes() for name, array in store.values(new).items()} == {
        name: array.tobytes() for name, array in store.values(old).items()
    }
    assert not scored(store, cell).ran


def test_run_leaves_an_old_record_as_it_is(store: Store, cell: Cell):
    old = without_curves(store, cell)
    assert todo(cell, store, old) == "nothing"
    assert not scored(store, cell, score_only=False).ran
    assert store.read(cell.key) == old


def test_a_reading_that_is_taken_anew_gets_a_new_curve_and_the_others_keep_theirs(ran: Store, store: Store, cell: Cell):
    record = store.read(cell.key)
    readings = [
        one.model_copy(update={"score_id": "of an older source"} if one.stem == "deletion_auc" else {})
        for one in record.readings
    ]
    notes = record.notes | {"curves": {metric: [0.5, 0.5] for metric in METRICS}}
    rewritten(store, record, readings=tuple(readings), notes=notes)
    scored(store, cell)
    found, right = (one.read(cell.key).notes["curves"] for one in (store, ran))
    assert found.pop("deletion_auc_zero") == right["deletion_auc_zero"]
    assert set(map(tuple, found.values())) == {(0.5, 0.5)}


def test_a_curve_that_cannot_be_taken_is_a_note_and_is_tried_again(
    ran: Store, store: Store, cell: Cell, monkeypatch: pytest.MonkeyPatch
):
    def fails(*anything: object) -> None:
        raise RuntimeError("no memory\nfor this")

    monkeypatch.setattr(curves, "mean_curve", fails)
    (record,) = tiny.run_here([cell], store)
    assert record.status == "ok"
    assert {one.metric for one in record.readings if one.status == "ok"} > set(METRICS)
    assert record.notes["curves_error"] == "RuntimeError: no memory"
    assert record.notes["curves"] == {}
    monkeypatch.undo()
    scored(store, cell)
    after = store.read(cell.key).notes
    assert after["curves"] == ran.read(cell.key).notes["curves"] and "curves_error" not in after
