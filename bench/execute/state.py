"""What still has to be done for a cell, read from the store alone."""

from collections.abc import Callable
from typing import Literal

from bench.execute.cell import expectations, inputs_of, is_doubtful, is_stale
from bench.execute.lab import subject_folder
from bench.execute.tracks import file_digest
from bench.plan.cells import Cell
from bench.record import DamagedRecord, Record, Store

Todo = Literal["nothing", "score", "run"]


def look_up(cell: Cell, store: Store, report: Callable[[str], None] = lambda line: None) -> Record | None:
    """The cell's record, or None; a damaged one is set aside and reported. What other cells read is checked whole."""
    try:
        return store.read(cell.key, artifacts=cell.track == "adversarial")
    except KeyError:
        return None
    except DamagedRecord as problem:
        set_aside(cell, store, problem, report)
        return None


def set_aside(cell: Cell, store: Store, problem: DamagedRecord, report: Callable[[str], None]) -> None:
    """Move a damaged record out of the way, unless another run was faster."""
    try:
        place = store.set_aside(cell.key, str(problem))
    except FileNotFoundError:
        return
    report(f"damaged record set aside as {place.name}, to be run again: {cell}: {problem}")


def todo(
    cell: Cell,
    store: Store,
    record: Record | None,
    *,
    retry_failed: bool = False,
    since: str = "",
    selftest: str = "skipped",
) -> Todo:
    """Whether the cell must be run, only measured, or left as it is. The cells it needs must be ok.

    Args:
        retry_failed: run again what ended neither ok nor skipped.
        since: run again what started before this time (UTC, as in records); empty for never.
        selftest: its outcome now; when it passes, what was measured while it failed is measured anew.
    """
    if record is None or str(record.provenance.get("started_utc", "")) < since or record.status == "interrupted":
        return "run"
    if _has_other_inputs(cell, store, record):
        return "run"
    if record.status in ("skipped", "unsupported") and not _reason_stands(cell, record):
        return "run"
    if record.status != "ok":
        return "run" if retry_failed and record.status != "skipped" else "nothing"
    if cell.track == "training" and not _has_its_weights(cell, store, record):
        return "run"
    stale = any(is_stale(record, identity) for identity in expectations(cell, store).values())
    return "score" if stale or is_doubtful(record, selftest) else "nothing"


def complaints(record: Record) -> tuple[str, ...]:
    """The metrics that failed on a cell, one line each."""
    return tuple(f"{reading.stem}: {reading.error}" for reading in record.readings if reading.status == "failed")


def _has_other_inputs(cell: Cell, store: Store, record: Record) -> bool:
    """Whether the weights of subject or start, or the attacked images, are not those that the record was made with."""
    known = record.provenance
    return any(known.get(name, digest) != digest for name, digest in inputs_of(cell, store).items())


def _reason_stands(cell: Cell, record: Record) -> bool:
    """Whether what kept the cell from running still would: not a need, now met, nor a plan that now sees no reason."""
    notes = record.notes
    if notes.get("waits_for") or notes.get("planned"):
        return bool(notes.get("planned")) and cell.skip is not None
    gate = notes.get("gate", cell.gate), notes.get("override_gate", cell.override_gate)
    return gate == (cell.gate, cell.override_gate)


def _has_its_weights(cell: Cell, store: Store, record: Record) -> bool:
    """Whether the trained network is there as it was when it was trained."""
    path = subject_folder(store, cell.key) / "weights.safetensors"
    return path.is_file() and file_digest(path) == record.provenance.get("weights_sha256")
