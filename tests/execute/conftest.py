"""What tests of the harness share: the tiny suite, planned once and run to its end once."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench import registry
from bench.execute import environment
from bench.plan.cells import Plan
from bench.record import Store
from tests.execute import tiny


@dataclass(frozen=True)
class Finished:
    """A folder with the tiny suite's file, its store, all cells done, and its boards."""

    folder: Path
    suite: Path
    plan: Plan

    @property
    def store(self) -> Store:
        return Store.open(self.folder / "store")

    def copy(self, folder: Path) -> "Finished":
        """The same in another folder, to be spoilt."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Finished(folder, folder / self.suite.name, self.plan)


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No data folder is set, and plugins and switches of one test are gone in the next."""
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    yield
    environment.reset(threads=1)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tiny suite, run by the command line in one go. Not to be changed: take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    suite = tiny.write_suite(folder)
    run = tiny.command(*tiny.run_command(folder, suite), folder=folder)
    assert run.wait(timeout=300) == 0, (folder / "said.txt").read_text(encoding="utf-8")
    return Finished(folder, suite, tiny.plan_of(folder))


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The tiny suite's cells."""
    return tiny.plan_of(tmp_path_factory.mktemp("plan"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return tiny.make_store(tmp_path)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner's workers are threads."""
    monkeypatch.setattr("bench.execute.runner._Worker", tiny.ThreadWorker)
