"""New and changed metrics over what is in the store: no method is run, and the numbers are those of a fresh run."""

from pathlib import Path

import pytest
import torch

from bench import registry
from bench.execute.cell import Run
from bench.execute.lab import Lab
from bench.execute.state import todo
from bench.execute.worker import Order, _carry_out
from bench.plan.cells import Plan
from bench.record import Record, Store
from tests.execute import tiny
from tests.execute.conftest import Finished

METRIC = '''"""How dark the darkest pixel is."""

from torch import Tensor

from bench.contract import metric


@metric(unit="intensity", better="lower", per="image", bounds=(0.0, 1.0), tracks=("adversarial", "inversion"))
def darkest(*, generated: Tensor) -> Tensor:
    """(N,) the smallest intensity of each image."""
    return generated.flatten(1).amin(1) * {factor}
'''


def plan_with(folder: Path, factor: float) -> Plan:
    """The tiny suite with the metric, whose file lies in a folder of its own."""
    own = folder / f"metric_{factor}"
    own.mkdir()
    (own / "darkest.py").write_text(METRIC.format(factor=factor), encoding="utf-8")
    registry._plugins.clear()
    registry.source_digest.cache_clear()  # a process never sees two files of one name otherwise
    registry.add_plugin(own / "darkest.py")
    return tiny.plan_of(folder)


def reading(record: Record, stem: str = "darkest") -> float:
    (found,) = [one.value for one in record.readings if one.stem == stem]
    return found


def untouched(record: Record) -> list[object]:
    """What only a method's run changes."""
    return [record.provenance, record.cost, record.notes, record.settings]


@pytest.mark.usefixtures("in_this_process")
def test_a_new_metric_is_read_from_stored_images(finished: Finished, tmp_path: Path):
    copy = finished.copy(tmp_path / "copy")
    plan, store = plan_with(tmp_path, 1.0), copy.store
    assert [cell.key for cell in plan.cells] == [cell.key for cell in copy.plan.cells]
    tested = [cell for cell in plan.cells if "darkest" in cell.metrics]
    assert {cell.track for cell in tested} == {"adversarial", "inversion"}
    before = {cell.key: store.read(cell.key) for cell in plan.cells}

    outcome, watcher = tiny.run_in_workers(plan, store, tested, score_only=True)
    assert outcome.exit_status == 0 and sorted(watcher.ran) == sorted(cell.key for cell in tested)
    fresh = tiny.make_store(tmp_path)
    tiny.run_here(plan.cells, fresh)
    assert tiny.all_numbers(store, plan.cells) == tiny.all_numbers(fresh, plan.cells)
    for cell in plan.cells:
        after = store.read(cell.key, artifacts=True)
        assert untouched(after) == untouched(before[cell.key])
        if cell in tested:
            assert [one.n_scored for one in after.readings if one.stem == "darkest"] == [cell.images]
        else:
            assert after == before[cell.key]


def test_a_changed_metric_is_read_again_and_only_that(finished: Finished, tmp_path: Path):
    store = finished.copy(tmp_path / "copy").store
    lab, run = Lab(store, None, torch.device("cpu")), Run("test", "tiny", "0.1.0")
    values = []
    for factor in (1.0, 0.5):
        cell = tiny.find(plan_with(tmp_path, factor), "inversion", "noise_search")
        before = store.read(cell.key)
        assert todo(cell, store, before) == "score"
        answer = _carry_out(Order(cell), lab, run)
        after = store.read(cell.key, artifacts=True)
        assert answer.ran and untouched(after) == untouched(before)
        others = {one.stem: one for one in after.readings if one.stem != "darkest"}
        assert others == {one.stem: one for one in before.readings if one.stem != "darkest"}
        assert todo(cell, store, after) == "nothing"
        values.append(reading(after))
    assert values[1] == values[0] / 2


def test_a_metric_that_crashes_its_worker_does_not_cost_what_the_method_made(finished: Finished, tmp_path: Path):
    store = finished.copy(tmp_path / "copy").store
    text = METRIC.replace("    return", "    import os\n    os._exit(3)\n    return").format(factor=1)
    (tmp_path / "darkest.py").write_text(text, encoding="utf-8")
    registry.add_plugin(tmp_path / "darkest.py")
    cell = tiny.find(tiny.plan_of(tmp_path), "inversion", "noise_search")
    before = store.read(cell.key)
    outcome, _ = tiny.run_in_workers(finished.plan, store, [cell])
    assert outcome.exit_status == 1
    assert outcome.failures[0][1:] == ("failed", "while metrics were taken: the worker ended with status 3")
    assert store.read(cell.key, artifacts=True) == before


def test_a_metric_that_fails_is_a_reading_with_its_reason(finished: Finished, tmp_path: Path):
    store = finished.copy(tmp_path / "copy").store
    registry.source_digest.cache_clear()
    text = METRIC.format(factor="undefined_name")
    (tmp_path / "darkest.py").write_text(text, encoding="utf-8")
    registry.add_plugin(tmp_path / "darkest.py")
    cell = tiny.find(tiny.plan_of(tmp_path), "adversarial", "fgsm")
    answer = _carry_out(Order(cell), Lab(store, None, torch.device("cpu")), Run("test", "tiny", "0.1.0"))
    assert answer.status == "ok" and answer.complaints == ("darkest: NameError: name 'undefined_name' is not defined",)
    (found,) = [one for one in store.read(cell.key).readings if one.stem == "darkest"]
    assert (found.status, found.value) == ("failed", None)

    outcome, watcher = tiny.run_in_workers(finished.plan, store, [cell])
    assert outcome.exit_status == 1 and watcher.ran == []
    assert outcome.failures == [(cell, "metric failed", "darkest: NameError: name 'undefined_name' is not defined")]
    assert outcome.statuses == {"ok": 1}


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_there_is_nothing_to_score_where_no_method_made_anything(plan: Plan, store: Store, status: str):
    cell = plan.cells[0]
    (record,) = tiny.run_here([cell], store)
    changed = record.model_copy(update={"status": status, "readings": ()})
    store.commit(changed, {}, store.stage(cell.key))
    answer = _carry_out(
        Order(cell, score_only=True), Lab(store, None, torch.device("cpu")), Run("test", "tiny", "0.1.0")
    )
    assert (answer.kind, answer.error, answer.ran) == ("done", "no record to score", False)
    assert store.read(cell.key).status == status
