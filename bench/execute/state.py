"""What still has to be done for a cell, read from the store alone."""

from collections.abc import Callable
from typing import Literal

from bench.execute.cell import expectations, inputs_of, is_stale
from bench.plan.cells import Cell
from bench.record import DamagedRecord, Record, Store

Todo = Literal["nothing", "score", "run"]
WAITS_FOR = "needs "  # how the reason of a cell begins that was skipped because another cell failed


def look_up(cell: Cell, store: Store, report: Callable[[str], None] = lambda line: None) -> Record | None:
    """The cell's record, or None; a damaged one is set aside and reported."""
    try:
        return store.read(cell.key)
    except KeyError:
        return None
    except DamagedRecord as problem:
        place = store.set_aside(cell.key, str(problem))
        report(f"damaged record set aside as {place.name} and run again: {problem}")
        return None


def todo(cell: Cell, store: Store, record: Record | None, *, retry_failed: bool = False, since: str = "") -> Todo:
    """Whether the cell must be run, only measured, or left as it is. The cells it needs must be finished.

    Args:
        retry_failed: run again what ended neither ok nor skipped.
        since: run again what started before this time (UTC, as in records); empty for never.
    """
    if record is None or str(record.provenance.get("started_utc", "")) < since:
        return "run"
    if record.status == "skipped":
        return (
            "run" if record.error.startswith(WAITS_FOR) or (cell.skip is None and _was_planned(record)) else "nothing"
        )
    if record.status != "ok":
        return "run" if retry_failed or record.status == "interrupted" else "nothing"
    if cell.track == "training":
        kept = store.root / "subjects" / cell.key / "weights.safetensors"
        if not kept.is_file():
            return "run"
    elif any(record.provenance.get(name) != digest for name, digest in inputs_of(cell, store).items()):
        return "run"
    stale = any(is_stale(record, identity) for identity in expectations(cell, store).values())
    return "score" if stale else "nothing"


def _was_planned(record: Record) -> bool:
    """Whether the skip came from the plan, which now sees no reason any more."""
    return bool(record.notes.get("planned"))
