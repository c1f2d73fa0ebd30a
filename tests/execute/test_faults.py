"""Whatever a method does, it costs its own cell, says why, and the next cell is as if nothing had happened."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from bench import registry
from bench.execute import runner
from bench.execute.lab import Lab
from bench.execute.runner import Outcome, index_of
from bench.leaderboard import build
from bench.plan.cells import Plan
from bench.record import Store
from tests.execute import tiny
from tests.execute.faulty import NOTES

CAUGHT = {  # fault → status and reason of a cell whose worker lives on
    "raises": ("failed", "RuntimeError: first line"),
    "talks": ("failed", "RuntimeError: " + "x" * 186),
    "leaves": ("failed", "SystemExit: 0"),
    "no_memory": ("oom", "MemoryError: no room for the attack"),
    "huge": ("oom", "RuntimeError: [enforce fail"),
    "not_finite": ("diverged", "adversarial/faulty returned 6272 values that are not finite"),
    "outside": ("failed", "ShapeError: adversarial/faulty should be intensities in [0, 1], got [1, 2]"),
    "shape": ("failed", "ShapeError: adversarial/faulty should return (8, 1, 28, 28) float32, got (8, 1, 27, 28)"),
    "double": ("failed", "ShapeError: adversarial/faulty should return (8, 1, 28, 28) float32, got (8, 1, 28, 28)"),
    "nothing": ("failed", "ShapeError: adversarial/faulty should return a tensor, got NoneType"),
    "far": ("failed", "ShapeError: adversarial/faulty went 1.000000 away, the bound linf_51_255 is 0.200000"),
    "greedy": ("failed", "BudgetExceeded: 902 passes, the cell's budget is 900"),
    "spoils": ("failed", "RuntimeError: adversarial/faulty changed the subject's parameters or buffers"),
    "why_not": ("failed", "why_not: ValueError: no idea"),
    "refuses": ("skipped", "needs a rainy day, the sun shines"),
}
FATAL = {  # fault → status and reason of a cell that ends its worker
    "segfault": ("failed", "segmentation fault (signal 11) in the worker"),
    "killed": ("failed", "killed: two workers ended by signal 9"),
    "slow": ("timeout", "not finished after 1 s"),
}
FINE = ("killed_once", "messy", "none")


class Ended(NamedTuple):
    """A suite of faults after its run."""

    plan: Plan
    store: Store
    outcome: Outcome
    said: list[str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """Every fault, one after the other, with one worker at a time."""
    folder = tmp_path_factory.mktemp("faults")
    others = [fault for fault in (*CAUGHT, *FATAL, *FINE) if fault != "slow"]
    suite = tiny.faults(*others)
    suite["tracks"] = {"adversarial": [*tiny.blocks(suite), *tiny.blocks(tiny.faults("slow", timeout_s=1))]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_plugins", {})
        patch.setenv(NOTES, str(folder / "notes.txt"))
        registry.add_plugin(tiny.FAULTY)
        plan, store = tiny.plan_of(folder, suite), tiny.make_store(folder)
        outcome, watcher = tiny.run_in_workers(plan, store)
    return Ended(plan, store, outcome, watcher.said)


@pytest.mark.parametrize("fault", [*CAUGHT, *FATAL])
def test_a_fault_is_recorded_with_its_reason(ended: Ended, fault: str):
    record = ended.store.read(tiny.find(ended.plan, "adversarial", "faulty", fault).key)
    status, reason = (CAUGHT | FATAL)[fault]
    assert record.status == status
    assert record.error.startswith(reason)
    assert "\n" not in record.error and len(record.error) <= 200
    assert record.readings == ()


@pytest.mark.parametrize("fault", FINE)
def test_the_cells_among_the_faults_are_done(ended: Ended, fault: str):
    assert ended.store.read(tiny.find(ended.plan, "adversarial", "faulty", fault).key).status == "ok"


def test_a_fault_ends_the_run_with_status_1_when_everything_else_is_done(ended: Ended):
    assert ended.outcome.exit_status == 1
    assert ended.outcome.statuses == {"failed": 13, "oom": 2, "diverged": 1, "timeout": 1, "skipped": 1, "ok": 3}


def test_a_worker_killed_from_outside_is_said_and_its_cell_tried_once_more(ended: Ended):
    tried = [line.split(" · ")[-2] for line in ended.said if "killed from outside (signal 9); trying once more" in line]
    assert tried == ["killed", "killed_once"]


def test_what_a_dying_worker_printed_is_in_its_record(ended: Ended):
    notes = ended.store.read(tiny.find(ended.plan, "adversarial", "faulty", "segfault").key).notes
    assert "Segmentation fault" in notes["log"]
    assert "tests/execute/faulty.py" in notes["log"]


def test_an_exception_leaves_its_traceback(ended: Ended):
    notes = ended.store.read(tiny.find(ended.plan, "adversarial", "faulty", "raises").key).notes
    assert notes["traceback"].endswith("RuntimeError: first line\nsecond line\n")


def test_the_board_shows_faults_without_rank_or_number(ended: Ended):
    ended.store.write_index(index_of(ended.plan))
    wide = build(ended.store, "faults").wide["adversarial"].set_index("variant")
    for fault in (*CAUGHT, *FATAL):
        row = wide.loc[fault]
        assert row["n_ok"] == 0
        assert row[["rank", "tier", "success_rate", "l2_size"]].isna().all()
    assert wide.loc[list(FINE), "rank"].notna().all()


def test_a_second_run_repeats_no_fault_unasked(ended: Ended):
    outcome, watcher = tiny.run_in_workers(ended.plan, ended.store)
    assert watcher.ran == []
    assert outcome.exit_status == 1
    assert outcome.statuses == ended.outcome.statuses


# ---- the next cell -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["spoils", "messy", "raises", "greedy"])
def test_the_next_cell_equals_one_in_a_fresh_process(
    fault: str, plan: Plan, store: Store, tmp_path: Path, finished, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    registry.add_plugin(tiny.FAULTY)
    bad = tiny.plan_of(tmp_path, tiny.faults(fault))
    lab = Lab(store, None, torch.device("cpu"))
    tiny.run_here(bad.cells, store, lab)
    tested = [c for c in plan.cells if c.track in ("training", "adversarial", "attribution", "detection")]
    tiny.run_here([c for c in tested if not store.has(c.key)], store, lab)
    assert tiny.all_numbers(store, tested) == tiny.all_numbers(finished.store, tested)


# ---- workers -------------------------------------------------------------------------------------------------------


def test_a_worker_that_cannot_start_blames_no_cell(
    plan: Plan, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "plugin.py"
    broken.write_text(tiny.FAULTY.read_text(encoding="utf-8"), encoding="utf-8")
    registry.add_plugin(broken)
    broken.unlink()
    monkeypatch.setattr(runner, "MOST_FAILED_STARTS", 1)
    with pytest.raises(RuntimeError, match="workers end before they start"):
        tiny.run_in_workers(plan, store)
    assert store.keys() == []


STUBBORN = '''"""Trains once somebody has asked nicely."""
from dataclasses import dataclass
from pathlib import Path

from bench.contract import method


@method(source="a test")
@dataclass(frozen=True, kw_only=True)
class Stubborn:
    """Fails until a file is there."""

    file: str = "{file}"

    def train(self, task):
        """The network as it is."""
        if not Path(self.file).exists():
            raise RuntimeError("not yet")
        return task.network
'''


@pytest.mark.usefixtures("in_this_process")
def test_a_failed_need_skips_what_needs_it_until_it_is_met(tmp_path: Path, store: Store):
    asked = tmp_path / "please"
    (tmp_path / "stubborn.py").write_text(STUBBORN.format(file=asked), encoding="utf-8")
    registry.add_plugin(tmp_path / "stubborn.py")
    tracks = {"attribution": {"methods": ["random_map"], "images": 4, "budget": 10}}
    plan = tiny.plan_of(tmp_path, subjects=["mlp.digits.stubborn"], referee=None, tracks=tracks)
    training, looking = plan.cells
    assert not training.wanted

    outcome, _ = tiny.run_in_workers(plan, store)
    assert store.read(training.key).error == "RuntimeError: not yet"
    assert store.read(looking.key).status == "skipped"
    assert store.read(looking.key).error == f"needs {training.key}, which is failed: RuntimeError: not yet"
    assert outcome.exit_status == 1, "what failed is on no board, but it failed"

    asked.touch()
    outcome, watcher = tiny.run_in_workers(plan, store)
    assert watcher.ran == [] and outcome.exit_status == 1, "a failure is not repeated unasked"
    outcome, watcher = tiny.run_in_workers(plan, store, retry_failed=True)
    assert watcher.ran == [training.key, looking.key]
    assert outcome.exit_status == 0 and store.read(looking.key).status == "ok"
