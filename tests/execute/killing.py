"""Ways to end processes from outside, and to see which are left. Linux only: it reads /proc."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NOT_RUNNING = "ZX"


def stat_of(process: int) -> list[str] | None:
    """State, parent, group and session of a process: /proc/PID/stat after the name. None when it is gone."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(") ")[2].split()


def alive_in_session(session: int) -> list[int]:
    """Processes of a session that still run. ``start_new_session`` makes a command's own the number of its process."""
    found = []
    for folder in Path("/proc").iterdir():
        stat = stat_of(int(folder.name)) if folder.name.isdigit() else None
        if stat and int(stat[3]) == session and stat[0] not in NOT_RUNNING:
            found.append(int(folder.name))
    return found


def workers_of(runner: int) -> list[int]:
    """The worker processes of a run: its children that multiprocessing has spawned."""
    found = []
    for process in alive_in_session(runner):
        stat = stat_of(process)
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if stat and int(stat[1]) == runner and b"spawn_main" in words:
            found.append(process)
    return found


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def records_in(folder: Path) -> int:
    return len(list((folder / "store" / "cells").glob("*/record.json")))


def kill_a_worker(run: subprocess.Popen[str]) -> bool:
    """Kill one of the run's workers; false when it has none."""
    for process in workers_of(run.pid)[:1]:
        os.kill(process, signal.SIGKILL)
        return True
    return False


def kill_the_runner(run: subprocess.Popen[str]) -> None:
    """Kill the runner alone; its workers are left to themselves."""
    run.kill()
    run.wait()
