"""The rows of ``results.csv``: one a measured number, and one for its mean over seeds."""

import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from bench.leaderboard.intervals import Interval, Summaries, Summary
from bench.leaderboard.lines import Line, Score, Sheet
from bench.leaderboard.schema import CONDITIONS, COST, KINDS, PROVENANCE, UNIQUE, BoardError, table
from bench.leaderboard.statistics import LEVEL
from bench.record import Record

Row = dict[str, Any]
_OF_THE_RUN = [column.name for column in CONDITIONS + PROVENANCE]
STAMPS = ("fail", "skipped", "pass")  # of the selftest: a mean has the weakest of its seeds
_IMAGES = "artifacts/images.safetensors"


def long_frame(sheet: Sheet, summaries: Summaries) -> pd.DataFrame:
    """All rows, sorted by what identifies them.

    Raises:
        BoardError: two rows would be one, or a record holds what its column cannot.
    """
    rows = [row for line in sheet.lines for row in _of_line(line, summaries[line.key], sheet.index.suite_version)]
    frame = table(rows, KINDS)
    double = frame[frame.duplicated(UNIQUE)]
    if len(double):
        first = double.iloc[0]
        raise BoardError(
            f"two cells of the board are one row: {first['track']}, {first['subject']}, {first['condition']}, "
            f"{first['method']}, {first['variant']}, seed {first['seed']}, metric {first['metric']}",
            "name their settings as variants, or their conditions differently, in the suite",
        )
    return frame


def _of_line(line: Line, summaries: dict[tuple[str, str], Summary], suite_version: str) -> Iterator[Row]:
    contexts = {record.key: _context(record, suite_version) for record in line.records}
    for name in sorted(summaries, key=lambda name: (name[0], len(name[1]), name[1])):  # version 9 before 10
        summary = summaries[name]
        yield _mean_row(line, summary, [contexts[score.record.key] for score in summary.scores])
        for score, found in zip(summary.scores, summary.by_seed, strict=True):
            yield contexts[score.record.key] | _seed_row(score, found)


def _context(record: Record, suite_version: str) -> Row:
    """What all rows of one cell share."""
    known = {**record.conditions, **record.provenance}
    return {
        "suite_version": suite_version,
        **record.identity.model_dump(),
        **{column.name: getattr(record.cost, column.name) for column in COST},
        "source": "measured",
        "selftest": "skipped",
        "config_sha256": _digest_of_settings(record),
        "artifact_sha256": record.digests.get(_IMAGES),
        **{name: known[name] for name in _OF_THE_RUN if known.get(name) is not None},
        "cell_id": record.key,
    }


def _digest_of_settings(record: Record) -> str:
    text = json.dumps(record.settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _card(score: Score) -> Row:
    row: Row = {"metric": score.metric, "metric_version": score.version}
    reading = score.reading
    if reading is not None:
        row |= {"unit": reading.unit, "metric_sha256": reading.metric_sha256}
        row |= {name: getattr(reading, name) for name in ("n_expected", "n_scored", "n_reference")}
        row["higher_is_better"] = None if reading.better == "neither" else reading.better == "higher"
    return row


def _numbers(value: float | None, found: Interval | None) -> Row:
    row: Row = {"value": value}
    if found is not None:
        row |= {"ci_low": found.low, "ci_high": found.high, "ci_level": LEVEL, "ci_method": found.method}
    return row


def _seed_row(score: Score, found: Interval | None) -> Row:
    row = _card(score) | _numbers(score.value, found)
    return row | {
        "aggregate": "seed",
        "n_seeds": 1 if score.value is not None else None,
        "status": score.status,
        "error": score.error,
    }


def _mean_row(line: Line, summary: Summary, contexts: Sequence[Row]) -> Row:
    """Over the seeds that have a value; what they do not agree on is left empty."""
    scores = summary.scores
    shown = [i for i, score in enumerate(scores) if score.value is not None] or list(range(len(scores)))
    row = _agreed([contexts[i] | _card(scores[i]) for i in shown])
    for name in ("wall_s", "gpu_s"):
        row[name] = _mean([contexts[i][name] for i in shown])
    stamps = {contexts[i]["selftest"] for i in shown}
    row["selftest"] = next((stamp for stamp in STAMPS if stamp in stamps), "")
    row["gpu_peak_mib"] = max((peak for i in shown if (peak := contexts[i]["gpu_peak_mib"]) is not None), default=None)
    row |= {"seed": None, "cell_id": None, "aggregate": "mean", "std": summary.std, "n_seeds": summary.n_seeds or None}
    absent = len(line.planned) - summary.n_seeds
    if summary.value is None:
        outcome = {"status": scores[0].status, "error": scores[0].error}
    else:
        outcome = {"status": "ok", "error": f"{absent} of {len(line.planned)} seeds without a value" if absent else ""}
    return row | _numbers(summary.value, summary.interval) | outcome


def _agreed(rows: list[Row]) -> Row:
    return {name: value for name, value in rows[0].items() if all(row.get(name) == value for row in rows)}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
