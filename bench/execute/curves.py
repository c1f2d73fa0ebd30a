"""The mean curves behind the deletion and insertion areas of an attribution cell.

A reading keeps one area an image. Where along the way two maps part shows in the curve alone, so its mean over the
images is kept as a note of the record, and taken in a second pass: the metric itself gives nothing but the area.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from bench import registry
from bench.execute.lab import Lab
from bench.execute.measure import Roles
from bench.plan.cells import Cell
from bench.record import Reading, Record

pixels = import_module("metrics._attribution")  # by its name: the type checker follows imports, and checks bench alone
DIGITS = 6
ENDS = {  # metric's stem → the images before any pixel is exchanged, and after all are
    "insertion_auc": ("blurred", "real"),
    "insertion_auc_zero": ("black", "real"),
    "deletion_auc": ("real", "black"),
    "deletion_auc_blur": ("real", "blurred"),
}


def lacks_curves(record: Record) -> bool:
    """Whether a reading has a value and no curve, as in records of before curves were kept."""
    known = record.notes.get("curves", {})
    return any(reading.metric not in known for reading in _with_curve(record.readings))


def with_curves(
    cell: Cell,
    lab: Lab,
    artifacts: Mapping[str, Tensor],
    record: Record,
    anew: Collection[str] = (),
) -> dict[str, Any]:
    """The record's notes, with ``curves`` for all readings that have one: metric → its points at equal steps.

    No reading hangs on a curve: why it cannot be taken is a note, ``curves_error``.

    Args:
        artifacts: what the method made.
        anew: stems of the metrics whose curve is taken again.
    """
    notes = {name: note for name, note in record.notes.items() if name not in ("curves", "curves_error")}
    wanted = {reading.metric: reading.stem for reading in _with_curve(record.readings)}
    if not wanted:
        return notes
    known = record.notes.get("curves", {})
    curves = {metric: known[metric] for metric, stem in wanted.items() if metric in known and stem not in anew}
    roles = Roles(cell, lab, artifacts, record.cost, record.notes)
    try:
        for metric, stem in wanted.items():
            if metric not in curves:
                curves[metric] = mean_curve(stem, roles)
    except Exception as problem:
        line = (str(problem).strip().splitlines() or [""])[0]
        notes["curves_error"] = f"{type(problem).__name__}: {line}"[:200]
    return notes | {"curves": dict(sorted(curves.items()))}


def mean_curve(stem: str, roles: Roles) -> list[float]:
    """Probability of the label after each of the metric's steps, from 0 to all pixels exchanged, mean over the images.

    Args:
        stem: of a metric that has a value for these roles.
    """
    defaults, real = _defaults(stem), roles.get("real")

    def images(kind: str) -> Tensor:
        if kind != "blurred":
            return real if kind == "real" else torch.zeros_like(real)
        found = pixels.blurred(real, defaults["taps"], defaults["sigma"])
        assert isinstance(found, Tensor), "a metric that has a value could blur its images"
        return found

    start, end = map(images, ENDS[stem])
    curve = pixels.swap_curve(
        roles.get("target"), start, end, roles.get("maps"), roles.get("labels"), defaults["steps"]
    )
    return [round(height, DIGITS) for height in curve.mean(0).tolist()]


def _with_curve(readings: Iterable[Reading]) -> list[Reading]:
    return [reading for reading in readings if reading.stem in ENDS and reading.status == "ok"]


def _defaults(stem: str) -> dict[str, Any]:
    """What the metric is called with besides its roles."""
    every = inspect.signature(registry.load_metric(stem)).parameters.values()
    return {one.name: one.default for one in every if one.default is not inspect.Parameter.empty}
