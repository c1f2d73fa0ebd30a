"""Twenty kills at random moments, of the runner or of a worker; then the boards are those of a run in one go."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.record import Store
from tests.execute import tiny
from tests.execute.killing import alive_in_session, kill_a_worker, kill_the_runner, wait_for

KILLS = 20

pytestmark = [pytest.mark.torture, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


def in_one_go(folder: Path) -> float:
    """Run the suite without a disturbance; the seconds it took."""
    folder.mkdir()
    started = time.monotonic()
    run = tiny.command(*tiny.run_command(folder, tiny.write_suite(folder, seeds=[0, 1])), folder=folder)
    assert run.wait(timeout=600) == 0, (folder / "said.txt").read_text(encoding="utf-8")
    return time.monotonic() - started


def has_ended(run: subprocess.Popen[str], seconds: float) -> bool:
    """Let the run go on for a while; whether it came to its end."""
    try:
        return run.wait(timeout=seconds) is not None
    except subprocess.TimeoutExpired:
        return False


def nobody_is_left_of(run: subprocess.Popen[str]) -> bool:
    return wait_for(lambda: not alive_in_session(run.pid), seconds=3)


def test_twenty_kills_at_random_moments_change_no_number(tmp_path: Path):
    whole = in_one_go(tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    words = tiny.run_command(folder, tiny.write_suite(folder, seeds=[0, 1]))
    dice = random.Random(0)
    moments: list[str] = []
    run = tiny.command(*words, folder=folder)
    while len(moments) < KILLS:
        if has_ended(run, seconds=dice.uniform(0.1, 0.8 * whole)):
            # everything is done: begin again with an empty store, so that the rest of the kills has something to hit
            assert run.returncode == 0, (folder / "said.txt").read_text(encoding="utf-8")
            assert tiny.results(folder) == tiny.results(tmp_path / "whole")
            (folder / "store").rename(folder / f"store_{len(moments)}")
            run = tiny.command(*words, folder=folder)
        elif dice.random() < 0.5:
            moments += ["worker"] if kill_a_worker(run) else []
        else:
            kill_the_runner(run)
            moments.append("runner")
            assert nobody_is_left_of(run), "a worker has survived its runner"
            run = tiny.command(*words, folder=folder)
    assert run.wait(timeout=600) == 0, (folder / "said.txt").read_text(encoding="utf-8")
    print(f"\n{moments.count('worker')} workers and {moments.count('runner')} runners killed")

    assert tiny.results(folder) == tiny.results(tmp_path / "whole")
    plan = tiny.plan_of(folder, seeds=[0, 1])
    stores = [Store.open(tmp_path / name / "store") for name in ("killed", "whole")]
    assert tiny.all_numbers(stores[0], plan.cells) == tiny.all_numbers(stores[1], plan.cells)
    assert list((stores[0].root / "damaged").iterdir()) == []
