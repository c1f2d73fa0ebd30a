"""A worker process: one device, kept warm, one cell after the other until nobody is left to ask."""

import errno
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from bench.execute.cell import Run, rescore, run_cell
from bench.execute.lab import Lab
from bench.execute.state import complaints, look_up, set_aside, todo
from bench.plan.cells import Cell
from bench.record import DamagedRecord, Record, Store, StoreFull


@dataclass(frozen=True)
class Setup:
    """What a worker is told when it starts.

    Args:
        device: "cpu" or "cuda:N".
        log: file that takes all that is printed.
        plugins: files to register.
    """

    store: Path
    root: Path | None
    device: str
    threads: int
    log: Path
    plugins: tuple[Path, ...]
    run: Run


@dataclass(frozen=True)
class Order:
    """One cell to be done. See ``bench.execute.state.todo`` for the flags."""

    cell: Cell
    retry_failed: bool = False
    since: str = ""
    score_only: bool = False  # never run the method; take readings anew that failed or lacked something, too


@dataclass(frozen=True)
class Answer:
    """How an order ended: "busy" when another run has the cell, "full" when the disk is, "broken" by our own fault."""

    key: str
    kind: Literal["ready", "done", "busy", "full", "broken"]
    status: str = ""
    error: str = ""
    seconds: float = 0.0
    ran: bool = False
    complaints: tuple[str, ...] = ()  # metrics that failed on a cell that is ok


def serve(orders: Connection, lifeline: Connection, setup: Setup) -> None:
    """Answer orders until told to stop (None). The process ends by itself when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    _print_to(setup.log)
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or matrix products on a GPU vary from run to run
    from bench import registry
    from bench.execute import environment

    for path in setup.plugins:
        registry.add_plugin(path)
    environment.reset(setup.threads)
    lab = Lab(Store.open(setup.store), setup.root, torch.device(setup.device))
    orders.send(Answer("", "ready"))
    while (order := orders.recv()) is not None:
        orders.send(_carry_out(order, lab, setup.run))


def _carry_out(order: Order, lab: Lab, run: Run) -> Answer:
    from filelock import FileLock, Timeout

    cell, started = order.cell, time.perf_counter()
    try:
        print(f"-- {cell.key} {cell}", flush=True)
        with FileLock(lab.store.root / "locks" / f"{cell.key}.lock", timeout=0):
            before = look_up(cell, lab.store, print)
            after = _scored(order, lab, run, before) if order.score_only else _finished(order, lab, run, before)
        if after is None:
            return Answer(cell.key, "done", "skipped", "no record to score")
        seconds = time.perf_counter() - started
        return Answer(cell.key, "done", after.status, after.error, seconds, after is not before, complaints(after))
    except Timeout:
        return Answer(cell.key, "busy")
    except StoreFull as problem:
        return Answer(cell.key, "full", error=str(problem))
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
            return Answer(cell.key, "full", error=f"no space left: {problem}")
        traceback.print_exc()
        return Answer(cell.key, "broken", error=f"{type(problem).__name__}: {problem}".split("\n")[0])


def _finished(order: Order, lab: Lab, run: Run, record: Record | None) -> Record:
    """The cell's record as it should be: the one there is, or that with new readings, or a new one."""
    cell = order.cell
    what = todo(cell, lab.store, record, retry_failed=order.retry_failed, since=order.since, selftest=run.selftest)
    if record is None or what == "run":
        return run_cell(cell, lab, run)
    if what == "nothing":
        return record
    try:
        return rescore(cell, lab, record, selftest=run.selftest)
    except DamagedRecord as problem:  # its artifacts: without them there is nothing to read
        set_aside(cell, lab.store, problem, print)
        return run_cell(cell, lab, run)


def _scored(order: Order, lab: Lab, run: Run, record: Record | None) -> Record | None:
    """The record with every reading that can be taken now, or None where no method has made anything."""
    if record is None or record.status != "ok":
        return None
    return rescore(order.cell, lab, record, again=True, selftest=run.selftest)


def _end_with_parent(lifeline: Connection) -> None:
    """Nothing is ever sent on the lifeline: it ends when the parent does, however that happens."""
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(1)


def _print_to(log: Path) -> None:
    """Send all output, also that of libraries and crashes, to a file."""
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # a full disk: the cell will say so
        handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    faulthandler.enable()
