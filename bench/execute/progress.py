"""What one sees while a suite runs: a bar in a terminal, a line a minute in a file."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from bench.plan.cells import Cell

if TYPE_CHECKING:
    from bench.execute.runner import Outcome

HEARTBEAT_S = 60.0


class Progress:
    """Follows a run. Use as a context.

    Args:
        seconds: key → estimated seconds in one worker.
        workers: how many work at once.
    """

    def __init__(self, console: Console, cells: Sequence[Cell], seconds: Mapping[str, float], workers: int) -> None:
        self.console, self.seconds, self.workers = console, seconds, workers
        self.left = {cell.key: seconds.get(cell.key, 0.0) for cell in cells}
        self.total, self.done = len(cells), 0
        self.running: dict[str, tuple[Cell, float]] = {}
        self.counts: Counter[str] = Counter()
        self.estimated, self.measured = 0.0, 0.0
        self.start = self.last_beat = time.monotonic()
        self.bar: Bar | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.bar = Bar(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[eta]}"),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("starting", total=self.total, eta="")
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def started(self, cell: Cell) -> None:
        """A worker took the cell."""
        self.running[cell.key] = (cell, time.monotonic())

    def finished(self, cell: Cell, status: str, error: str, seconds: float, ran: bool) -> None:
        """The cell is settled. Failures are said at once."""
        self.done += 1
        self.counts[status] += 1
        self.running.pop(cell.key, None)
        expected = self.left.pop(cell.key, 0.0)
        if ran and status == "ok" and expected:  # a cell that was only measured anew had no estimate
            self.estimated += expected
            self.measured += seconds
        if status not in ("ok", "skipped", "unsupported"):
            self.say(f"{status}: {cell} ({cell.key}): {error}")

    def say(self, line: str) -> None:
        """One line that stays on the screen."""
        self.console.print(escape(line), highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Bring the bar up to date, or give the minute's sign of life."""
        now = time.monotonic()
        doing = ", ".join(str(cell) for cell, _ in self.running.values())
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, description=doing[:120], eta=self.eta())
        elif now - self.last_beat >= HEARTBEAT_S:
            self.last_beat = now
            self.say(
                f"{self.done}/{self.total} cells after {(now - self.start) / 60:.0f} min, {self.eta()}; now: {doing}"
            )

    def eta(self) -> str:
        """How long it may still take, corrected by how long finished cells took against their estimates."""
        pace = self.measured / self.estimated if self.estimated > 1.0 else 1.0
        now = time.monotonic()
        spent = sum(min(now - since, pace * self.left.get(key, 0.0)) for key, (_, since) in self.running.items())
        rest = max(0.0, pace * sum(self.left.values()) - spent) / self.workers
        return f"about {rest / 60:.0f} min left" if rest >= 90 else f"about {rest:.0f} s left"

    def summary(self, outcome: "Outcome") -> None:
        """How it ended, in a line or a few."""
        took = time.monotonic() - self.start
        counts = ", ".join(f"{count} {status}" for status, count in outcome.statuses.most_common())
        self.say(f"{counts or 'nothing to do'}; {outcome.ran} cells worked on, {took:.0f} s")
        for (status, error), count in Counter((status, error) for _, status, error in outcome.failures).most_common():
            first = next(cell for cell, *rest in outcome.failures if rest == [status, error])
            self.say(f"  {count} × {status}: {error}\n    run_bench.py show {first.key}")
        if outcome.full:
            self.say(outcome.full)
