"""``changes.csv``: the audit trail of published rows."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from bench.leaderboard.schema import TIMED_UNITS, Kind, from_csv, table, to_csv
from bench.record import write_atomic

COLUMNS: Mapping[str, Kind] = {
    "date": "str",
    "action": "str",  # add, remove or rescore
    "cell_id": "str",
    "old_value": "float64",
    "new_value": "float64",
    "reason": "str",
}


def changes_between(old: pd.DataFrame, new: pd.DataFrame, *, date: str, reason: str) -> pd.DataFrame:
    """What publishing ``new`` in place of ``old`` adds, removes and rescores, one row a cell and metric.

    Args:
        old, new: frames of ``results.csv``. What a clock gave is left out: it changes with every run.
        date: ISO 8601, from the caller: a table never asks the clock.
        reason: one line; the metric's name is put before it.
    """
    before, after = _values(old), _values(new)
    rows = []
    for place in sorted({**before, **after}):
        was, now = before.get(place), after.get(place)
        if place in before and place in after and (was == now or (pd.isna(was) and pd.isna(now))):
            continue
        action = "rescore" if place in before and place in after else "add" if place in after else "remove"
        cell, metric = place
        row = {"date": date, "action": action, "cell_id": cell, "old_value": was, "new_value": now}
        rows.append(row | {"reason": f"{metric}: {reason}"})
    return table(rows, COLUMNS)


def log_changes(path: Path, changes: pd.DataFrame) -> None:
    """Put rows under those that ``path`` holds already. The file is replaced whole, never appended to.

    A row of the same cell and reason is replaced: a release that was killed is made again.
    """
    known = [load_changes(path)] if path.exists() else []
    rows = pd.concat([*known, changes], ignore_index=True)
    write_atomic(path, to_csv(rows.drop_duplicates(["cell_id", "reason"], keep="last", ignore_index=True)))


def load_changes(path: Path) -> pd.DataFrame:
    """The audit trail; raises ``BoardError`` when it cannot be read."""
    return from_csv(path, COLUMNS)


def _values(frame: pd.DataFrame) -> dict[tuple[str, str], float]:
    seeds = frame[(frame["aggregate"] == "seed") & ~frame["unit"].isin(TIMED_UNITS)]
    return {
        (str(cell), str(metric)): float(value)
        for cell, metric, value in zip(seeds["cell_id"], seeds["metric"], seeds["value"], strict=True)
    }
