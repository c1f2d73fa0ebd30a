"""One cell from task to record, whatever happens in between."""

import errno
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.contract import BudgetExceeded, Diverged, SetupError, Skip, Unsupported
from bench.execute import environment
from bench.execute.curves import lacks_curves, with_curves
from bench.execute.feature_space import draw_features
from bench.execute.gates import clean_accuracy
from bench.execute.lab import Lab
from bench.execute.measure import Expected, expected, measure
from bench.execute.path_pictures import draw_paths
from bench.execute.pictures import cell_sheet
from bench.execute.tracks import Made, file_digest, make, stored_tensors
from bench.plan.cells import Cell, eval_transform
from bench.record import TENSORS, Identity, Record, Status, Store, StoreFull
from bench.zoo import weights
from bench.zoo.datasets import dataset_card

STAMPS = ("fail", "skipped", "pass")  # of the selftest, the weaker first


@dataclass(frozen=True)
class Run:
    """What all cells of one command share.

    Args:
        run_id: start of the run and a few random letters.
        suite, version: for the provenance.
        selftest: outcome of the selftest at its start: pass, fail or skipped.
    """

    run_id: str
    suite: str
    version: str
    selftest: str = "skipped"


def run_cell(cell: Cell, lab: Lab, run: Run) -> Record:
    """Make, measure and keep one cell.

    Whatever the method does wrong becomes the record's status. Only what is not the cell's fault is raised:

    Raises:
        StoreFull: no space left, nothing was kept.
        KeyboardInterrupt: nothing was kept.
    """
    environment.reset(int(cell.spec["threads"]))
    started = datetime.now(UTC)
    staged = lab.store.stage(cell.key)
    log: list[str] = []
    try:
        status, error, notes, made = _attempt(cell, lab, log.append)
        record = blank_record(cell, run, lab.device, started).model_copy(update={"status": status, "error": error})
        values: Mapping[str, Any] = {}
        if made is not None:
            environment.reset(int(cell.spec["threads"]))  # a method may have left any switch as it liked
            readings, values = measure(
                cell, lab, made.artifacts, expectations(cell, lab.store), cost=made.cost, notes=made.notes
            )
            notes |= gate_note(cell, lab) | made.notes | {"metrics_s": sum(reading.seconds for reading in readings)}
            record = record.model_copy(update={"readings": tuple(readings), "cost": made.cost, "notes": notes})
            notes = with_curves(cell, lab, made.artifacts, record)
            _keep(cell, lab, made, staged)
            notes |= _draw(cell, lab, made, staged)
            artifact = file_digest(staged / TENSORS)
        else:
            artifact = ""
        if log:
            (staged / "artifacts").mkdir(exist_ok=True)
            (staged / "artifacts" / "log.txt").write_text("\n".join(log) + "\n", encoding="utf-8")
        provenance = record.provenance | weights_of(cell, lab, notes) | {"artifact_sha256": artifact}
        record = record.model_copy(update={"notes": notes, "provenance": provenance})
        return lab.store.commit(record, values, staged)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"no space left for cell {cell.key}", "make space and give the same command again"
            ) from problem
        raise
    finally:
        lab.store.discard(staged)


def rescore(cell: Cell, lab: Lab, record: Record, *, again: bool = False, selftest: str = "skipped") -> Record:
    """Take anew the readings that are missing or out of date, from stored artifacts; the method is not run.

    Curves that are missing are taken too; alone they do not make ``run`` come here (see ``state.todo``), as no number
    hangs on them: ``score`` adds them to old records.

    A record has one stamp for all its readings: those of a failed selftest are all taken anew once it passes, those of
    a skipped one as soon as any is; otherwise the weaker of two stamps stays.

    Args:
        again: also those that failed or lacked a library or file the last time.
        selftest: the outcome under which they are taken.
    """
    environment.reset(int(cell.spec["threads"]))
    failed = {reading.stem for reading in record.readings if reading.status in ("failed", "unsupported")}
    now = expectations(cell, lab.store)
    stale = {stem: it for stem, it in now.items() if is_stale(record, it) or (again and stem in failed)}
    doubtful, before = is_doubtful(record, selftest), stamp_of(record)
    if doubtful or (stale and selftest == "pass" and before != "pass"):
        stale = now
    if not stale and not lacks_curves(record):
        return record
    weaker = min(before, selftest, key=STAMPS.index)
    stamp = before if not stale else selftest if len(stale) == len(now) else weaker
    made = stored_tensors(lab.store, cell.key)
    taken, fresh = measure(cell, lab, made, stale, cost=record.cost, notes=record.notes)
    kept = [reading for reading in record.readings if reading.stem not in stale and not doubtful]
    names = {name for reading in kept for name in (reading.values, reading.replicates) if name}
    values = {name: array for name, array in lab.store.values(record).items() if name in names} | fresh
    readings = tuple(sorted((*kept, *taken), key=lambda reading: reading.stem))
    changes = {"readings": readings, "provenance": record.provenance | {"selftest": stamp}}
    scored = record.model_copy(update=changes)
    notes = with_curves(cell, lab, made, scored, anew=stale)
    return lab.store.rewrite(scored.model_copy(update={"notes": notes}), values)


def expectations(cell: Cell, store: Store) -> dict[str, Expected]:
    """Stem → the identity each reading of the cell should have, given today's metrics, data, referee and panel."""
    judge = "" if cell.judge is None else _judges_weights(cell.judge, cell.judge_key, store)
    panel = tuple(_judges_weights(*member, store) for member in zip(cell.panel, cell.panel_keys, strict=True))
    return {stem: expected(cell, stem, judge, str(cell.spec["data"]), panel) for stem in cell.metrics}


def _judges_weights(name: str, key: str | None, store: Store) -> str:
    """Digest of a judging network's weights."""
    if key is None:
        return weights.public_card(name).sha256
    return str(store.read(key).provenance.get("weights_sha256", ""))


def is_stale(record: Record, identity: Expected) -> bool:
    """Whether the record lacks that reading, or has it from another version of metric or references."""
    known = {reading.stem: reading for reading in record.readings}
    reading = known.get(identity.stem)
    return reading is None or reading.score_id != identity.score_id


def stamp_of(record: Record) -> str:
    """Outcome of the selftest under which the record's readings were taken."""
    return str(record.provenance.get("selftest", "skipped"))


def is_doubtful(record: Record, selftest: str) -> bool:
    """Whether the readings were taken while the selftest failed, which now passes."""
    return selftest == "pass" and stamp_of(record) == "fail" and bool(record.readings)


def blank_record(cell: Cell, run: Run, device: torch.device, started: datetime) -> Record:
    """Everything about a cell that is known without running it; its status says that it was interrupted."""
    conditions = (
        environment.conditions(device)
        | {
            "batch_size": cell.spec.get("batch_size", cell.spec.get("recipe", {}).get("batch_size")),
            "precision": cell.spec["precision"],
            "threads": cell.spec["threads"],
        }
        | _shown_as(cell)
    )
    provenance = environment.code_state() | environment.host() | {
        "data_sha256": cell.spec["data"],
        "config_sha256": cell.config_digest,
        "run_id": run.run_id,
        "started_utc": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": "measured",
        "selftest": run.selftest,
        "device": str(device),
        "suite": run.suite,
        "suite_version": run.version,
    }  # fmt: skip
    return Record(
        key=cell.key,
        identity=identity_of(cell),
        settings=dict(cell.settings),
        spec=dict(cell.spec),
        status="interrupted",
        conditions=conditions,
        provenance=provenance,
        is_reference=cell.is_reference,
    )


def _shown_as(cell: Cell) -> dict[str, Any]:
    """How pictures became the size that the subject takes, where that is not the data set's own way."""
    data = dataset_card(cell.dataset)
    transform = None if cell.track == "training" else eval_transform(cell.subject, data)
    if transform is None:
        return {"img_size": data.image_shape[1]}
    return {
        "img_size": transform.size,
        "crop_pct": transform.crop_pct,
        "interpolation": transform.interpolation,
        "antialias": True,
    }


def identity_of(cell: Cell) -> Identity:
    """The cell in the words of the boards."""
    names = ("track", "dataset", "split", "subject", "method", "condition", "variant", "method_version", "seed")
    return Identity(**{name: getattr(cell, name) for name in names})


def _attempt(cell: Cell, lab: Lab, log: Callable[[str], None]) -> tuple[Status, str, dict[str, Any], Made | None]:
    """(status, error, notes, what was made). A method's failure is caught here and nowhere else."""
    try:
        return "ok", "", {}, make(cell, lab, log)
    except (StoreFull, KeyboardInterrupt):
        raise
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return "failed", first_line(problem), _trace(), None
    except Skip as reason:
        return "skipped", first_line(reason), {"gate": cell.gate, "override_gate": cell.override_gate}, None
    except Unsupported as reason:
        return "unsupported", first_line(reason), {}, None
    except Diverged as reason:
        return "diverged", first_line(reason), {}, None
    except (BudgetExceeded, SetupError) as reason:
        return "failed", first_line(reason), _trace(), None
    except (torch.OutOfMemoryError, MemoryError) as problem:
        return "oom", first_line(problem), {}, None
    except (Exception, SystemExit) as problem:
        if "not enough memory" in str(problem) or "can't allocate memory" in str(problem):  # torch on a CPU
            return "oom", first_line(problem), {}, None
        if "No space left" in str(problem):  # safetensors wraps the system's error
            raise StoreFull(
                f"no space left for cell {cell.key}", "make space and give the same command again"
            ) from problem
        return "failed", first_line(problem), _trace(), None


def first_line(problem: BaseException) -> str:
    """Kind and first line of an error, at most 200 characters."""
    text = (str(problem).strip().split("\n") or [""])[0]
    ours = isinstance(problem, Skip | Unsupported | Diverged)
    return (text if ours else f"{type(problem).__name__}: {text}")[:200]


def _trace() -> dict[str, Any]:
    return {"traceback": traceback.format_exc(limit=-12)}


def _keep(cell: Cell, lab: Lab, made: Made, staged: Path) -> None:
    (staged / TENSORS).parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file({name: tensor.contiguous() for name, tensor in made.artifacts.items()}, staged / TENSORS)
    except Exception as problem:
        if "No space left" in str(problem):
            raise OSError(errno.ENOSPC, "No space left on device", str(staged)) from problem
        raise
    cell_sheet(cell, lab, made.artifacts, staged / "artifacts" / "contact_sheet.png")


def _draw(cell: Cell, lab: Lab, made: Made, staged: Path) -> dict[str, str]:
    """A note on why the pictures of feature space or of paths are not there: no number hangs on them."""
    try:
        if "paths" in made.notes:
            draw_paths(made.notes["paths"], staged / "artifacts" / "paths.png")
        reason = draw_features(cell, lab, made.artifacts, staged / "artifacts")
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = first_line(problem)
    return {"feature_pictures": reason} if reason else {}


def weights_of(cell: Cell, lab: Lab, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Digest of the subject's weights, and what the gate had to say."""
    if cell.track == "training":
        return {"weights_sha256": notes.get("weights_sha256", "")} | inputs_of(cell, lab.store)
    return inputs_of(cell, lab.store)


def inputs_of(cell: Cell, store: Store) -> dict[str, Any]:
    """Digests of what other cells hand to this one: when they change, the cell is stale."""
    found: dict[str, Any] = {}
    if cell.subject_key is not None:
        found["weights_sha256"] = store.read(cell.subject_key).provenance.get("weights_sha256", "")
    elif cell.track != "training":
        found["weights_sha256"] = weights.public_card(cell.subject).sha256
    if cell.attack_key is not None:
        found["attack_sha256"] = store.read(cell.attack_key).provenance.get("artifact_sha256", "")
    if cell.known_attack_key is not None:
        found["known_attack_sha256"] = store.read(cell.known_attack_key).provenance.get("artifact_sha256", "")
    if cell.start_key is not None:
        found["start_sha256"] = store.read(cell.start_key).provenance.get("weights_sha256", "")
    return found


def gate_note(cell: Cell, lab: Lab) -> dict[str, Any]:
    """Whether the subject is below its gate and was let through."""
    if not cell.override_gate or cell.gate is None or cell.track == "training":
        return {}
    accuracy = clean_accuracy(cell, lab, cell.subject, cell.subject_key)
    low = accuracy is None or accuracy < cell.gate
    return {"gate_overridden": True, "clean_accuracy": accuracy, "gate": cell.gate} if low else {}
