"""Killed at any moment, stopped, or run twice at once: the same command ends at the same numbers."""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench import registry
from bench.record import Store
from tests.execute import tiny
from tests.execute.conftest import Finished
from tests.execute.faulty import NOTES
from tests.execute.killing import alive_in_session, kill_a_worker, kill_the_runner, records_in, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text(encoding="utf-8")


def test_killed_again_and_again_a_suite_ends_as_if_it_had_run_in_one_go(tmp_path: Path, finished: Finished):
    words = tiny.run_command(tmp_path, tiny.write_suite(tmp_path))

    run = tiny.command(*words, folder=tmp_path)
    assert wait_for(lambda: records_in(tmp_path) >= 1)
    assert wait_for(lambda: kill_a_worker(run))
    assert wait_for(lambda: records_in(tmp_path) >= 3)
    kill_the_runner(run)
    assert wait_for(lambda: not alive_in_session(run.pid), seconds=2), "a worker has survived its runner"
    kept = records_in(tmp_path)
    assert 3 <= kept < len(finished.plan.cells)

    run = tiny.command(*words, folder=tmp_path)
    assert wait_for(lambda: records_in(tmp_path) > kept)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(timeout=30) == 130
    assert "the same command goes on from here" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert wait_for(lambda: not alive_in_session(run.pid), seconds=2), "a worker has survived Ctrl-C"

    run = tiny.command(*words, folder=tmp_path)
    assert run.wait(timeout=300) == 0, said(tmp_path)
    assert tiny.results(tmp_path) == tiny.results(finished.folder)
    store, cells = Store.open(tmp_path / "store"), finished.plan.cells
    assert tiny.all_numbers(store, cells) == tiny.all_numbers(finished.store, cells)
    assert list((store.root / "damaged").iterdir()) == []

    outcome, watcher = tiny.run_in_workers(finished.plan, store)
    assert watcher.ran == [] and outcome.exit_status == 0, "nothing is run twice"


def test_two_runs_at_once_share_the_work(tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(NOTES, str(tmp_path / "notes.txt"))
    registry.add_plugin(tiny.FAULTY)
    counting = {"name": "faulty", "variant": "counts", "settings": {"fault": "counts"}}
    block = {"conditions": ["linf_51_255"], "methods": [counting, "fgsm", "pgd"], "images": 10, "budget": 90}
    seeds = [0, 1, 2]
    suite = tiny.write_suite(tmp_path, tracks={"adversarial": block}, seeds=seeds, batch_size=16)
    words = tiny.run_command(tmp_path, suite, "--plugin", tiny.FAULTY)
    other = [*words[:5], str(tmp_path / "boards2"), *words[6:]]
    assert words[4] == "--leaderboards"

    runs = [tiny.command(*one, folder=tmp_path) for one in (words, other)]
    assert [run.wait(timeout=300) for run in runs] == [0, 0], said(tmp_path)

    notes = Counter((tmp_path / "notes.txt").read_text(encoding="utf-8").split())
    assert list(notes.values()) == [1, 1, 1], "one cell a seed, and each was run once"
    logs = [path.read_text(encoding="utf-8") for path in (tmp_path / "store" / "logs").iterdir()]
    assert len(logs) >= 2
    boards = [(tmp_path / name / "tiny" / "results.csv").read_bytes() for name in ("boards", "boards2")]
    assert boards[0] == boards[1]
