"""Hands cells to workers in the order of their needs, survives the loss of any of them, and says how far it is."""

import contextlib
import multiprocessing
import secrets
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch

from bench import registry
from bench.contract import TRACKS
from bench.execute import environment
from bench.execute.cell import Run, blank_record, identity_of
from bench.execute.state import complaints, look_up, todo
from bench.execute.worker import Answer, Order, Setup, serve
from bench.plan.cells import Cell, Plan
from bench.plan.claims import ClaimSpec
from bench.plan.suite import AnySuite
from bench.record import Claim, IndexedCell, RowName, Status, Store, StoreFull, SuiteIndex, VerdictRule

TICK_S = 0.2
BUSY_AGAIN_S = 1.0
MOST_FAILED_STARTS = 4  # in a row; then something is wrong with this machine, not with a cell
CRASHES = {
    signal.SIGSEGV: "segmentation fault",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "arithmetic fault",
    signal.SIGILL: "illegal instruction",
}


class Watcher(Protocol):
    """Who is told how far a run is."""

    def started(self, cell: Cell) -> None:
        """A worker took the cell."""

    def finished(self, cell: Cell, status: str, error: str, seconds: float, ran: bool) -> None:
        """The cell has its record; ``ran`` is false when it had it before."""

    def say(self, line: str) -> None:
        """Something that the user should read."""

    def tick(self) -> None:
        """Called a few times a second."""


@dataclass
class Outcome:
    """How a run ended.

    Args:
        statuses: status → number of the suite's own cells.
        ran: cells that a method or metric was run for.
        full: the disk filled up.
        failures: (cell, status, error) of what did not end well, metrics that failed on good cells included.
        busy_s: seconds that workers spent on cells.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    ran: int = 0
    full: str = ""
    failures: list[tuple[Cell, str, str]] = field(default_factory=list)
    busy_s: float = 0.0

    @property
    def exit_status(self) -> int:
        """0 when every cell, those that others need included, is ok, skipped or unsupported and no metric failed."""
        return 1 if self.failures or self.full else 0


class _Worker:
    """One process and the cell it is at."""

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        listen, self.lifeline = context.Pipe(duplex=False)
        self.setup = setup
        self.process: BaseProcess = context.Process(target=serve, args=(theirs, listen, setup), daemon=True)
        self.process.start()
        theirs.close()
        listen.close()
        self.cell: Cell | None = None
        self.since = time.monotonic()
        self.is_ready = False
        self.log_start = 0

    def take(self, order: Order) -> None:
        self.cell, self.since = order.cell, time.monotonic()
        self.log_start = self.setup.log.stat().st_size if self.setup.log.exists() else 0
        with contextlib.suppress(OSError):  # it may just have been killed: then it is found lost, with this cell
            self.pipe.send(order)

    def log_tail(self) -> str:
        """What the process printed since it took its cell, at most the last 4000 characters.

        The list of loaded modules at the end of a crash's report would drive out where it happened.
        """
        if not self.setup.log.exists():
            return ""
        with self.setup.log.open("rb") as file:
            file.seek(self.log_start)
            lines = file.read().decode(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("Extension modules:"))[-4000:]

    def end(self, patience_s: float = 0.0) -> None:
        """Stop the process: asked first when there is patience, then killed."""
        if patience_s and self.process.is_alive():
            with contextlib.suppress(OSError):
                self.pipe.send(None)
            self.process.join(patience_s)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()
        self.lifeline.close()


class Runner:
    """One ``run`` of a plan on a store.

    Args:
        cells: what to do, with all that it needs.
        force: keys of the cells to run again, records or not.
        selftest: its outcome, for the records.
        workers: how many processes; they share the CPU or the GPUs in turn.
    """

    def __init__(
        self,
        plan: Plan,
        cells: Iterable[Cell],
        store: Store,
        root: Path | None,
        watcher: Watcher,
        *,
        workers: int,
        retry_failed: bool = False,
        force: Collection[str] = (),
        score_only: bool = False,
        selftest: str = "skipped",
    ) -> None:
        now = datetime.now(UTC)
        run_id = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self.run = Run(run_id, plan.suite.suite, plan.suite.version, selftest)
        self.plan, self.store, self.root, self.watcher = plan, store, root, watcher
        self.pending = {cell.key: cell for cell in _most_needed_first(cells)}
        self.settled: dict[str, tuple[str, str]] = {}
        self.due: set[str] = set()  # cells that were looked at and need a worker; what has changed since, it will see
        self.tried: Counter[str] = Counter()
        self.failed_starts = 0
        self.busy_until: dict[str, float] = {}
        self.scoring: set[str] = set(self.pending) if score_only else set()
        self.workers: list[_Worker] = []
        self.most = max(1, workers)
        self.flags: dict[str, Any] = {"retry_failed": retry_failed, "score_only": score_only}
        self.since = dict.fromkeys(force, f"{now:%Y-%m-%dT%H:%M:%SZ}")
        self.outcome = Outcome()
        self.device = environment.best_device()
        for kind in ("locks", "logs"):
            (store.root / kind).mkdir(exist_ok=True)

    def go(self) -> Outcome:
        """Run until nothing is left to do. Workers never outlive this call."""
        try:
            while self.pending and not self.outcome.full:
                self._hand_out()
                self._listen()
                self._look_at_clocks()
                self.watcher.tick()
        except StoreFull as problem:
            self.outcome.full = str(problem)
        finally:
            calm = not self.pending
            for worker in self.workers:
                worker.end(patience_s=2.0 if calm else 0.0)
        return self.outcome

    # -- giving work -------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Settle what needs no worker, and give every idle worker a cell whose needs are met."""
        taken = {worker.cell.key for worker in self.workers if worker.cell}
        for cell in list(self.pending.values()):
            if cell.key in taken or self.busy_until.get(cell.key, 0) > time.monotonic():
                continue
            if any(key in self.pending for key in cell.needs):
                continue
            if cell.key in self.due or not self._settle_without_worker(cell):
                self.due.add(cell.key)
                worker = self._idle_worker()
                if worker is None:
                    return
                taken.add(cell.key)
                worker.take(Order(cell, since=self.since.get(cell.key, ""), **self.flags))
                self.watcher.started(cell)

    def _settle_without_worker(self, cell: Cell) -> bool:
        """True when the cell has its record already, or must be skipped."""
        if not self.flags["score_only"]:
            unmet = [key for key in cell.needs if self.settled.get(key, ("ok", ""))[0] != "ok"]
            if unmet:
                status, why = self.settled[unmet[0]]
                reason = f"needs {unmet[0]}, which is {status}: {why}"
                self._write_unrun(cell, "skipped", reason, {"waits_for": unmet[0]})
                return True
            if cell.skip is not None:
                status, why = cell.skip
                self._write_unrun(cell, status, why, {"planned": True})  # type: ignore[arg-type]
                return True
            record = look_up(cell, self.store, self.watcher.say)
            what = todo(
                cell,
                self.store,
                record,
                retry_failed=self.flags["retry_failed"],
                since=self.since.get(cell.key, ""),
                selftest=self.run.selftest,
            )
            if what == "nothing":
                assert record is not None
                self._complain(cell, complaints(record))
                self._settle(cell, record.status, record.error, 0.0, ran=False)
                return True
            if what == "score":
                self.scoring.add(cell.key)
        return False

    def _idle_worker(self) -> _Worker | None:
        for worker in self.workers:
            if worker.cell is None:
                return worker
        if len(self.workers) < self.most:
            return self._start_worker()
        return None

    def _start_worker(self) -> _Worker:
        number = len(self.workers)
        device = f"cuda:{number % torch.cuda.device_count()}" if self.device.type == "cuda" else "cpu"
        log = self.store.root / "logs" / f"{self.run.run_id}-{number}-{secrets.token_hex(2)}.log"
        paths = tuple(found.path for found in registry.plugins())
        setup = Setup(self.store.root, self.root, device, self.plan.suite.threads, log, paths, self.run)
        worker = _Worker(setup)
        self.workers.append(worker)
        return worker

    # -- hearing of it -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        sources: list[Connection | int] = [worker.pipe for worker in self.workers]
        sources += [worker.process.sentinel for worker in self.workers]
        if not sources:
            if self.pending:
                time.sleep(TICK_S)
            return
        wait(sources, timeout=TICK_S)
        for worker in list(self.workers):
            has_ended = not worker.process.is_alive()  # asked first: what it said before it ended is heard below
            with contextlib.suppress(EOFError, OSError):
                while worker.pipe.poll():
                    self._heard(worker, worker.pipe.recv())
            if has_ended:
                self._lost(worker)

    def _heard(self, worker: _Worker, answer: Answer) -> None:
        if answer.kind == "ready":
            worker.is_ready = True
            self.failed_starts = 0
            worker.since = time.monotonic()  # imports do not count against the first cell's time
            return
        cell, worker.cell = worker.cell, None
        assert cell is not None and cell.key == answer.key
        match answer.kind:
            case "busy":
                self.busy_until[cell.key] = time.monotonic() + BUSY_AGAIN_S
            case "full":
                self.outcome.full = answer.error
            case "broken":
                self._fail(cell, "failed", answer.error, worker.log_tail())
            case _:
                self.outcome.busy_s += answer.seconds
                self._complain(cell, answer.complaints)
                self._settle(cell, answer.status, answer.error, answer.seconds, ran=answer.ran)

    def _lost(self, worker: _Worker) -> None:
        """A worker is gone: its cell is recorded as failed, or tried once more when it was killed from outside."""
        self.workers.remove(worker)
        cell, code = worker.cell, worker.process.exitcode or 0
        tail = worker.log_tail()
        worker.end()
        if not worker.is_ready:  # no cell is to blame
            self.failed_starts += 1
            if self.failed_starts >= MOST_FAILED_STARTS:
                raise RuntimeError(f"workers end before they start, the last with status {code}:\n{tail}")
        if cell is None or not worker.is_ready:
            return
        if -code in CRASHES:
            reason = f"{CRASHES[signal.Signals(-code)]} (signal {-code}) in the worker"
        elif code < 0:
            self.tried[cell.key] += 1
            if self.tried[cell.key] < 2:
                self.watcher.say(f"worker killed from outside (signal {-code}); trying once more: {cell}")
                return
            reason = f"killed: two workers ended by signal {-code}"
        else:
            reason = f"the worker ended with status {code}"
        self._fail(cell, "failed", reason, tail)

    def _look_at_clocks(self) -> None:
        for worker in list(self.workers):
            cell = worker.cell
            if cell is not None and worker.is_ready and time.monotonic() - worker.since > cell.timeout_s:
                self.workers.remove(worker)
                tail = worker.log_tail()
                worker.end()
                self._fail(cell, "timeout", f"not finished after {cell.timeout_s:g} s", tail)

    # -- keeping it --------------------------------------------------------------------------------------------------

    def _fail(self, cell: Cell, status: Status, error: str, log: str) -> None:
        """A cell that a worker could not finish. What its method made before is kept when only metrics were taken."""
        if cell.key in self.scoring:
            self._settle(cell, status, f"while metrics were taken: {error}", 0.0, ran=False)
        else:
            self._write_unrun(cell, status, error, {"log": log} if log else {})

    def _write_unrun(self, cell: Cell, status: Status, error: str, notes: Mapping[str, Any]) -> None:
        """A record for a cell that no worker could finish, unless it has just that record."""
        error = " ".join(error.split())[:200]
        known = look_up(cell, self.store, self.watcher.say)
        if known is None or (known.status, known.error) != (status, error):
            record = blank_record(cell, self.run, self.device, datetime.now(UTC))
            record = record.model_copy(update={"status": status, "error": error, "notes": dict(notes)})
            self.store.commit(record, {}, self.store.stage(cell.key))
        self._settle(cell, status, error, 0.0, ran=False)

    def _complain(self, cell: Cell, lines: Iterable[str]) -> None:
        """Say which metrics failed on a cell; the method's work is kept, but the run did not end well."""
        for line in lines:
            self.outcome.failures.append((cell, "metric failed", line))
            self.watcher.say(f"metric failed: {cell} ({cell.key}): {line}")

    def _settle(self, cell: Cell, status: str, error: str, seconds: float, *, ran: bool) -> None:
        del self.pending[cell.key]
        self.settled[cell.key] = (status, error)
        self.outcome.ran += ran
        if cell.wanted:
            self.outcome.statuses[status] += 1
        if status not in ("ok", "skipped", "unsupported"):
            self.outcome.failures.append((cell, status, error))
        self.watcher.finished(cell, status, error, seconds, ran)


def _most_needed_first(cells: Iterable[Cell]) -> list[Cell]:
    """What most others wait for, such as the referee's training, before the rest, or workers would idle for it."""
    every = list(cells)
    waiting = Counter(key for cell in every for key in cell.needs)
    return sorted(every, key=lambda cell: -waiting[cell.key])


def index_of(plan: Plan) -> SuiteIndex:
    """What the boards of a plan will show, cell by cell."""
    suite = plan.suite
    return SuiteIndex(
        suite=suite.suite,
        profile=suite.profile,
        suite_version=suite.version,
        protocol=suite.protocol,
        board=suite.board,
        primary={name: track.primary for name, track in TRACKS.items() if name in suite.track_names} | suite.primary,
        cells=tuple(
            IndexedCell(key=cell.key, identity=identity_of(cell), is_reference=cell.is_reference)
            for cell in plan.wanted
        ),
        rank_references=suite.rank_references,
        claims=tuple(_claim(spec, suite) for spec in suite.claims),
        track_notes={track: tuple(lines) for track, lines in suite.notes.items()},
        notes={"description": suite.description, "dataset": ", ".join(part.dataset for part in suite.parts)},
    )


def _claim(spec: ClaimSpec, suite: AnySuite) -> Claim:
    """The claim with every pair of rows that answers it by name."""
    pairs = spec.compared(suite.rows(spec.track))
    return Claim(
        claim=spec.claim,
        source=spec.source,
        track=spec.track,
        metrics=tuple(spec.stems),
        margin=spec.margin,
        control=spec.control,
        pairs=tuple((RowName(**of._asdict()), RowName(**against._asdict())) for of, against in pairs),
        verdict=None if spec.verdict is None else VerdictRule.model_validate(spec.verdict.model_dump()),
    )
