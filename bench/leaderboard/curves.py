"""How the label's probability goes as pixels are exchanged: ``curves.csv``, from the notes of attribution cells."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.leaderboard.lines import Line, Metric, Sheet
from bench.leaderboard.schema import IDENTITY, PLACE, Column, Kind, table

NAMES = ("suite_version", "track", *PLACE, "method", "variant")
CURVES = (
    *({column.name: column for column in IDENTITY}[name] for name in NAMES),
    Column("metric", "str", "whose value, a mean over images of areas, is the area below this curve"),
    Column("share", "float64", "of the pixels that are exchanged, the most important ones first; 0 to 1, equal steps"),
    Column("value", "float64", "probability of the label, mean over the images and the seeds; 0 to 1"),
    Column("n_seeds", "Int64", "seeds that the value stands for"),
)
CURVE_KINDS: dict[str, Kind] = {column.name: column.kind for column in CURVES}
CURVE_DECIMALS = {"share": 4, "value": 4}


def curves_frame(sheet: Sheet) -> pd.DataFrame | None:
    """The rows of ``curves.csv`` in the order of the boards, numbers in full; None where no cell has curves."""
    rows = [
        row
        for line in sheet.lines
        for (track, _), known in sorted(sheet.metrics.items())
        if track == line.key.group.track
        for row in _rows(sheet, line, known)
    ]
    return table(rows, CURVE_KINDS) if rows else None


def _rows(sheet: Sheet, line: Line, known: Metric) -> Iterator[dict[str, Any]]:
    """One line's curve of a metric, of the seeds that have one from its newest version."""
    scores = line.scores.get((known.name, known.version), [])
    notes = [score.record.notes.get("curves", {}) for score in scores if score.value is not None]
    drawn = [note[known.name] for note in notes if known.name in note]
    if len({len(points) for points in drawn}) != 1:  # none, or of other steps: their points are at other shares
        return
    group = line.key.group
    common = {
        "suite_version": sheet.index.suite_version,
        "track": group.track,
        "dataset": group.dataset,
        "subject": group.subject,
        "condition": group.condition,
        "method": line.key.method,
        "variant": line.key.variant,
        "metric": known.name,
        "n_seeds": len(drawn),
    }
    heights = np.mean(np.asarray(drawn, dtype=np.float64), axis=0)  # a point that a seed lacks is no number
    for share, height in zip(np.linspace(0, 1, len(heights)), heights, strict=True):
        yield common | {"share": float(share), "value": float(height)}
