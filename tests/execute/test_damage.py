"""What was damaged is set aside, said and run again; so is what depends on something that changed; nothing else is."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.execute.cell import Run
from bench.execute.lab import Lab, subject_folder
from bench.execute.state import look_up, todo
from bench.execute.tracks import file_digest
from bench.execute.worker import Order, _carry_out
from bench.plan.cells import Cell, Plan
from bench.record import Record, Store
from bench.zoo.weights import save_weights
from tests.execute import tiny
from tests.execute.conftest import Finished


def flip(path: Path, place: int = -20) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def raise_a_value(path: Path) -> None:
    """A better score, by hand."""
    record = json.loads(path.read_text(encoding="utf-8"))
    reading = next(one for one in record["readings"] if one["value"] is not None)
    reading["value"] += 0.01
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {  # what → (file, how, reason)
    "a record cut off": ("record.json", cut, "record.json is not a record"),
    "a record of nothing": ("record.json", lambda path: path.write_bytes(b""), "record.json is not a record"),
    "a value changed by hand": ("record.json", raise_a_value, "does not have its own digest"),
    "one bit of the values": ("values.safetensors", flip, "values.safetensors does not have the digest"),
    "values gone": ("values.safetensors", Path.unlink, "values.safetensors cannot be read"),
}


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Finished:
    return finished.copy(tmp_path / "copy")


def states(plan: Plan, store: Store) -> dict[str, str]:
    """What is still to be done for each cell of a finished suite."""
    return {str(cell): todo(cell, store, look_up(cell, store)) for cell in plan.cells}


def lab_of(store: Store) -> Lab:
    return Lab(store, None, torch.device("cpu"))


RUN = Run("test", "tiny", "0.1.0")


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_set_aside_with_its_reason(copy: Finished, kind: str):
    name, spoil, reason = DAMAGE[kind]
    cell, store = tiny.find(copy.plan, "attribution", "gradient"), copy.store
    spoil(store.cell(cell.key) / name)
    said: list[str] = []
    assert look_up(cell, store, said.append) is None
    (aside,) = (store.root / "damaged").iterdir()
    assert reason in (aside / "reason.txt").read_text(encoding="utf-8")
    assert len(said) == 1 and aside.name in said[0] and reason in said[0]
    assert not store.has(cell.key)
    assert look_up(cell, store, said.append) is None and len(said) == 1


@pytest.mark.usefixtures("in_this_process")
def test_everything_damaged_is_made_again_and_nothing_else(finished: Finished, copy: Finished):
    plan, store = copy.plan, copy.store
    spoilt = {
        "record cut off": (tiny.find(plan, "attribution", "gradient"), "record.json", cut),
        "value changed": (tiny.find(plan, "inversion", "pixel_ascent"), "record.json", raise_a_value),
        "values flipped": (tiny.find(plan, "detection"), "values.safetensors", flip),
        "attacked images flipped": (tiny.find(plan, "adversarial", "pgd"), "artifacts/tensors.safetensors", flip),
    }
    for cell, name, spoil in spoilt.values():
        spoil(store.cell(cell.key) / name)
    subject, referee = (cell for cell in plan.cells if cell.track == "training")
    (subject_folder(store, subject.key) / "weights.safetensors").unlink()
    flip(subject_folder(store, referee.key) / "weights.safetensors")

    outcome, watcher = tiny.run_in_workers(plan, store)
    assert outcome.exit_status == 0
    assert sorted(watcher.ran) == sorted([*(cell.key for cell, *_ in spoilt.values()), subject.key, referee.key])
    assert sum("damaged record set aside" in line for line in watcher.said) == len(spoilt)
    assert tiny.all_numbers(store, plan.cells) == tiny.all_numbers(finished.store, plan.cells)


def test_two_that_find_the_same_damage_do_not_trip_over_each_other(copy: Finished, monkeypatch: pytest.MonkeyPatch):
    cell, store = tiny.find(copy.plan, "training"), copy.store
    flip(store.cell(cell.key) / "values.safetensors")
    read = Store.read

    def slow_read(self: Store, key: str, *, artifacts: bool = False) -> Record:
        try:
            return read(self, key, artifacts=artifacts)
        finally:
            shutil.rmtree(self.cell(key), ignore_errors=True)  # the other one is faster

    monkeypatch.setattr(Store, "read", slow_read)
    said: list[str] = []
    assert look_up(cell, store, said.append) is None
    assert said == []


def test_damaged_images_are_not_measured_anew_but_made_anew(copy: Finished):
    cell, store = tiny.find(copy.plan, "reconstruction"), copy.store
    before = tiny.numbers(store.read(cell.key), store)
    flip(store.cell(cell.key) / "artifacts" / "tensors.safetensors")
    older = dataclasses.replace(cell, real_images=29)  # another reference set: its readings are out of date
    assert todo(older, store, store.read(cell.key)) == "score"
    answer = _carry_out(Order(older), lab_of(store), RUN)
    assert (answer.kind, answer.status, answer.ran) == ("done", "ok", True)
    assert len(list((store.root / "damaged").iterdir())) == 1
    assert tiny.numbers(store.read(cell.key, artifacts=True), store) == before


def test_damaged_attacked_images_never_reach_a_detector(copy: Finished):
    cell, store = tiny.find(copy.plan, "detection"), copy.store
    assert cell.attack_key is not None
    flip(store.cell(cell.attack_key) / "artifacts" / "tensors.safetensors")
    (record,) = tiny.run_here([cell], store)
    assert record.status == "failed"
    assert record.error == "DamagedRecord: tensors.safetensors does not have the digest in its record"


def test_damaged_weights_are_refused_by_name_when_they_are_loaded(copy: Finished):
    cell, store = tiny.find(copy.plan, "attribution", "gradient"), copy.store
    assert cell.subject_key is not None
    cut(subject_folder(store, cell.subject_key) / "weights.safetensors")
    (record,) = tiny.run_here([cell], store)
    assert record.status == "failed"
    assert record.error.startswith("SetupError: ")
    assert "weights.safetensors is not a whole safetensors file" in record.error


# ---- what has changed ----------------------------------------------------------------------------------------------


def test_a_finished_suite_has_nothing_to_do(finished: Finished):
    assert set(states(finished.plan, finished.store).values()) == {"nothing"}


def retrain(store: Store, cell: Cell) -> None:
    """The subject's record and weights as another machine might have made them."""
    path = subject_folder(store, cell.key) / "weights.safetensors"
    lab = lab_of(store)
    network = lab.model(cell, "mlp.digits.sgd", cell.key).network
    with torch.no_grad():
        next(network.parameters()).mul_(1.001)
    save_weights(network, path)
    record = store.read(cell.key)
    staged = store.stage(cell.key)
    shutil.copytree(store.cell(cell.key) / "artifacts", staged / "artifacts")
    provenance = record.provenance | {"weights_sha256": file_digest(path)}
    store.commit(record.model_copy(update={"provenance": provenance}), store.values(record), staged)


def test_other_weights_of_the_subject_make_all_its_cells_run_again(copy: Finished):
    plan, store = copy.plan, copy.store
    subject = tiny.find(plan, "training")
    retrain(store, subject)
    for cell in plan.cells:
        wanted = "run" if cell.subject_key == subject.key else "nothing"
        assert todo(cell, store, store.read(cell.key)) == wanted, cell


def test_other_weights_of_the_referee_make_its_readings_be_taken_again(copy: Finished):
    plan, store = copy.plan, copy.store
    (referee,) = [cell for cell in plan.cells if cell.track == "training" and not cell.wanted]
    retrain(store, referee)
    for cell in plan.cells:
        wanted = "score" if cell.judge_key == referee.key else "nothing"
        assert todo(cell, store, store.read(cell.key)) == wanted, cell


def test_other_attacked_images_make_the_detector_run_again(copy: Finished):
    plan, store = copy.plan, copy.store
    attack = store.read(tiny.find(plan, "adversarial", "pgd").key)
    staged = store.stage(attack.key)
    shutil.copytree(store.cell(attack.key) / "artifacts", staged / "artifacts")
    provenance = attack.provenance | {"artifact_sha256": "0" * 64}
    store.commit(attack.model_copy(update={"provenance": provenance}), store.values(attack), staged)
    found = states(plan, store)
    assert [name for name, what in found.items() if what != "nothing"] == [str(tiny.find(plan, "detection"))]
    assert found[str(tiny.find(plan, "detection"))] == "run"


@pytest.mark.parametrize(
    ("status", "notes", "skip", "wanted"),
    [
        ("skipped", {"planned": True}, None, "run"),
        ("skipped", {"planned": True}, ("skipped", "needs BatchNorm"), "nothing"),
        ("unsupported", {"planned": True}, None, "run"),
        ("skipped", {"waits_for": "0123456789abcdef"}, None, "run"),
        ("skipped", {"gate": None, "override_gate": False}, None, "nothing"),
        ("skipped", {"gate": 0.9, "override_gate": False}, None, "run"),
        ("skipped", {"gate": None, "override_gate": True}, None, "run"),
        ("interrupted", {}, None, "run"),
        ("failed", {}, None, "nothing"),
        ("timeout", {}, None, "nothing"),
    ],
)
def test_what_was_not_done_is_done_when_its_reason_is_gone(finished: Finished, status, notes, skip, wanted):
    cell = dataclasses.replace(tiny.find(finished.plan, "attribution", "gradient"), skip=skip)
    changes = {"status": status, "error": "needs nothing", "notes": notes, "readings": ()}
    record = finished.store.read(cell.key).model_copy(update=changes)
    assert todo(cell, finished.store, record) == wanted
    again = todo(cell, finished.store, record, retry_failed=True)
    assert again == ("run" if status in ("failed", "timeout") else wanted)


def test_what_failed_on_other_weights_is_tried_again(finished: Finished):
    cell = tiny.find(finished.plan, "attribution", "gradient")
    record = finished.store.read(cell.key)
    provenance = record.provenance | {"weights_sha256": "0" * 64}
    failed = record.model_copy(update={"status": "diverged", "readings": (), "provenance": provenance})
    assert todo(cell, finished.store, failed) == "run"


def test_force_runs_again_what_started_before(finished: Finished):
    cell = tiny.find(finished.plan, "attribution", "gradient")
    record = finished.store.read(cell.key)
    assert todo(cell, finished.store, record, since=record.provenance["started_utc"]) == "nothing"
    assert todo(cell, finished.store, record, since="9999-01-01T00:00:00Z") == "run"


def test_force_with_a_choice_runs_what_matches_again_and_not_what_that_needs(finished: Finished, tmp_path: Path):
    copy = finished.copy(tmp_path)
    chosen = tiny.find(copy.plan, "attribution", "random_map")
    before = {cell.key: copy.store.read(cell.key).provenance["run_id"] for cell in copy.plan.cells}
    run = tiny.command(
        *tiny.run_command(tmp_path, copy.suite, "--only", chosen.key, "--force", "--workers", 1), folder=tmp_path
    )
    assert run.wait(timeout=120) == 0, (tmp_path / "said.txt").read_text(encoding="utf-8")
    again = {key for key, run_id in before.items() if copy.store.read(key).provenance["run_id"] != run_id}
    assert again == {chosen.key}
