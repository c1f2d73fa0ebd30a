"""``release``, ``compare`` and ``nightly`` on a suite of seconds, whose method is then made worse."""

import json
import shutil
from pathlib import Path

import pytest

from bench import registry
from bench.execute import selftest
from bench.execute.runner import index_of
from bench.leaderboard import build, freeze, write
from tests.execute import tiny
from tests.test_cli import Command, answering, command, refused, rows_of  # noqa: F401 - command is a fixture

# A method with a known quality: the map of the gradient, its sign turned round for a share of the images.
METHOD = '''
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.contract import method


@method(source="a test")
@dataclass(frozen=True, kw_only=True)
class Sloppy:
    """The gradient's size, or minus that."""

    def why_not(self, task):
        """Nothing."""
        return None

    def explain(self, task):
        """Maps."""
        images = task.images.detach().clone().requires_grad_()
        logits = task.model(images).gather(1, task.labels[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), images)
        maps = gradient.abs().amax(1)
        {change}
        return maps
'''
ONCE = """if not Path({marker!r}).exists():
            Path({marker!r}).touch()
            maps = -maps"""


SUITE = {
    **tiny.SUITE,
    "referee": None,
    "tracks": {"attribution": {"methods": ["sloppy", "random_map"], "images": 12, "budget": 10}},
}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite that has run, is published, and is frozen as release 0.1.0."""
    folder = tmp_path_factory.mktemp("frozen")
    with pytest.MonkeyPatch.context() as patched:
        plugin(folder, patched)
        plan, store = tiny.plan_of(folder, SUITE), tiny.make_store(folder)
        tiny.run_here(plan.cells, store)
        store.write_index(index_of(plan))
    write(build(store, "tiny"), folder / "leaderboards" / "tiny")
    freeze(store, folder / "leaderboards", [], version="0.1.0", date="2026-09-01")
    return folder


@pytest.fixture
def released(command: Command, tmp_path: Path, frozen: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A copy of that folder to work in; returns the suite's file."""
    shutil.copytree(frozen, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("bench.execute.runner._Worker", tiny.ThreadWorker)
    monkeypatch.setattr(selftest, "CHECKS", answering(2.0))
    return tmp_path / "tiny.yaml"


def plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, change: str = "pass") -> Path:
    """The file of the method, with a line that spoils it; the one that was known before is forgotten."""
    monkeypatch.setattr(registry, "_plugins", {})
    path = folder / "sloppy.py"
    path.write_text(METHOD.format(change=change), encoding="utf-8")
    registry.add_plugin(path)
    return path


def report(folder: Path, day: str) -> dict:
    return json.loads((folder / "nightly" / day / "report.json").read_bytes())


def test_a_night_of_the_same_code_ends_with_0_and_leaves_what_is_published_alone(
    command: Command,  # noqa: F811
    tmp_path: Path,
    released: Path,
):
    before = {path: path.read_bytes() for path in (tmp_path / "leaderboards").rglob("*") if path.is_file()}
    words = ("nightly", released, "--plugin", "sloppy.py", "--workers", 1, "--date", "2026-09-02")
    ended = command(*words)
    assert ended.status == 0, ended
    assert "tiny: 0 alarms; " in ended.out and "unpaired: 0" in ended.out
    said = report(tmp_path, "2026-09-02")
    assert said["alarms"] == 0 and said["boards"]["tiny"]["numbers"]["unpaired"] == 0
    assert said["boards"]["tiny"]["worse"] == []
    assert (tmp_path / "nightly/2026-09-02/site/index.html").is_file()
    assert (tmp_path / "nightly/2026-09-02/leaderboards/tiny/results.csv").is_file()
    assert {path: path.read_bytes() for path in before} == before
    again = command(*words)
    assert again.status == 0 and "0 cells worked on" in again.out, "goes on where it stopped"
    assert command("compare", "leaderboards", "nightly/2026-09-02/leaderboards").status == 0


def test_a_method_made_worse_raises_one_alarm_that_a_rerun_confirmed(
    command: Command,  # noqa: F811
    tmp_path: Path,
    released: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    words = ("nightly", released, "--plugin", plugin(tmp_path, monkeypatch, "maps = -maps"), "--workers", 1)
    ended = command(*words, "--date", "2026-09-02")
    assert ended.status == 3, ended
    assert "tiny: 1 cells got worse than release 0.1.0 and are run again" in ended.out
    (alarm,) = [line for line in ended.out.splitlines() if line.startswith("ALARM")]
    assert "attribution · digits · test · mlp.digits.sgd" in alarm and "sloppy" in alarm
    (said,) = report(tmp_path, "2026-09-02")["boards"]["tiny"]["alarms"]
    assert said["method"] == "sloppy" and said["paired"] and said["low"] * said["high"] > 0
    assert (tmp_path / "nightly/2026-09-02/site/index.html").is_file(), "published all the same"
    advisory = command(*words, "--date", "2026-09-02", "--advisory")
    assert advisory.status == 0 and "ALARM" in advisory.out
    night = tmp_path / "nightly/2026-09-02/leaderboards"
    assert command("compare", "leaderboards/releases/v0.1.0", night, "--store", "store/nightly/2026-09-02").status == 3


def test_what_a_rerun_does_not_confirm_raises_none(
    command: Command,  # noqa: F811
    tmp_path: Path,
    released: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    marker = str(tmp_path / "marker")
    once = plugin(tmp_path, monkeypatch, ONCE.format(marker=marker))
    ended = command("nightly", released, "--plugin", once, "--workers", 1, "--date", "2026-09-02")
    assert ended.status == 0, ended
    assert "cells got worse than release 0.1.0 and are run again" in ended.out
    assert "not confirmed by a rerun" in ended.out and "ALARM" not in ended.out
    assert report(tmp_path, "2026-09-02")["boards"]["tiny"]["not confirmed by a rerun"]


def test_a_method_that_newly_fails_is_an_alarm_and_other_failures_end_with_1(
    command: Command,  # noqa: F811
    tmp_path: Path,
    released: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    broken = plugin(tmp_path, monkeypatch, "raise RuntimeError('broken')")
    ended = command("nightly", released, "--plugin", broken, "--workers", 1, "--date", "2026-09-02")
    assert ended.status == 3 and "ok → failed: RuntimeError: broken" in ended.out
    other = {"methods": ["sloppy"], "images": 4, "budget": 10}
    suite = tiny.write_suite(tmp_path, suite="other", referee=None, tracks={"attribution": other})
    ended = command("nightly", suite, "--plugin", broken, "--workers", 1, "--date", "2026-09-03")
    assert ended.status == 1 and "other: not in release 0.1.0" in ended.out
    assert report(tmp_path, "2026-09-03")["boards of the release that were not run"] == ["tiny"]


def test_a_page_that_cannot_be_written_hides_no_alarm(
    command: Command,  # noqa: F811
    tmp_path: Path,
    released: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("<title>my home</title>")
    broken = plugin(tmp_path, monkeypatch, "raise RuntimeError('broken')")
    words = ("nightly", released, "--plugin", broken, "--workers", 1, "--date", "2026-09-02", "--to", "mine")
    ended = command(*words)
    assert "ALARM" in ended.out and report(tmp_path, "2026-09-02")["alarms"] == 1
    assert ended.status == 2 and "was not written by site" in ended.err


def test_no_night_writes_into_a_release(command: Command, tmp_path: Path, released: Path):  # noqa: F811
    words = ("nightly", released, "--plugin", "sloppy.py", "--leaderboards", "leaderboards/releases/v0.1.0")
    assert "a release is never changed" in refused(command, tmp_path, *words)


def test_a_cell_that_was_deleted_is_worse(command: Command, tmp_path: Path, released: Path):  # noqa: F811
    rows = rows_of(tmp_path / "leaderboards" / "tiny" / "results.csv")
    (key,) = {row["cell_id"] for row in rows if row["method"] == "random_map"} - {""}
    shutil.rmtree(tmp_path / "store" / "cells" / key)
    assert command("rank", "tiny", "--quiet").status == 0
    ended = command("compare", "leaderboards/releases/v0.1.0", "leaderboards")
    assert ended.status == 3 and "random_map · default: missing" in ended.out
    assert command("compare", "leaderboards/releases/v0.1.0/tiny", "leaderboards/releases/v0.1.0").status == 0


def test_release_says_what_it_froze_and_how_large_it_is(command: Command, tmp_path: Path, released: Path):  # noqa: F811
    ended = command("release", "0.2.0", "tiny", "--date", "2026-09-02")
    assert ended.status == 0, ended
    lines = ended.out.splitlines()
    assert lines[0].startswith("tiny: ") and "rows, 2 cells ok, 0 not ok" in lines[0]
    assert lines[1].startswith("release: leaderboards/releases/v0.2.0, 0.") and lines[1].endswith(" MiB")
    assert command("compare", "leaderboards/releases/v0.1.0", "leaderboards/releases/v0.2.0").status == 0
    assert "a release is never changed" in refused(command, tmp_path, "release", "0.2.0")


def test_a_failed_selftest_ends_the_night_before_it_starts(
    command: Command,  # noqa: F811
    tmp_path: Path,
    released: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(selftest, "CHECKS", answering(2.5))
    ended = command("nightly", released, "--plugin", "sloppy.py", "--date", "2026-09-02")
    assert ended.status == 1 and "nothing was run: the selftest failed" in ended.err
    assert not (tmp_path / "nightly").exists()


def test_wrong_requests_are_refused(command: Command, tmp_path: Path):  # noqa: F811
    assert "make one: run_bench.py release VERSION" in refused(command, tmp_path, "nightly", "smoke")
    assert "no release in nowhere" in refused(command, tmp_path, "nightly", "smoke", "--release", "nowhere")
    assert "no store at store" in refused(command, tmp_path, "release", "0.1.0")
    assert "no board in old" in refused(command, tmp_path, "compare", "old", "new")


def test_a_mistyped_suite_or_date_starts_no_night(command: Command, tmp_path: Path, released: Path):  # noqa: F811
    assert "Did you mean 'smoke'" in refused(command, tmp_path, "nightly", "smoek")
    assert "no board of a built-in suite" in refused(command, tmp_path, "nightly")
    words = ("nightly", released, "--plugin", "sloppy.py", "--date", "tomorrow")
    assert "date should be YYYY-MM-DD, got 'tomorrow'" in refused(command, tmp_path, *words)
