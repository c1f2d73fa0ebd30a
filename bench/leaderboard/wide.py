"""The board of one track: a line a method, ranked within each group, and the sidecar that says how to read it."""

import statistics
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pandas as pd

from bench.leaderboard.intervals import Summaries, Summary
from bench.leaderboard.lines import Group, Line, Sheet
from bench.leaderboard.schema import BoardError, table, wide_columns
from bench.leaderboard.settings import settings_of
from bench.leaderboard.statistics import DRAW_SEED, LEVEL, Floats, rank_intervals, ranks, tiers
from bench.record import Problem

Row = dict[str, Any]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class _Entry:
    """A line within its group: what ranks it, or why it has no rank."""

    line: Line
    primary: Summary | None
    unranked: str

    @property
    def value(self) -> float | None:
        return self.primary.value if self.primary is not None else None


def wide_frame(sheet: Sheet, track: str, summaries: Summaries) -> pd.DataFrame:
    """The track's lines by data set, subject and condition; within these the complete ones first, the best on top.

    Lines that were measured while the selftest failed stand last and have no rank. A metric that no line has a value of
    has no column: the sidecar says why.

    Raises:
        BoardError: two lines would be one.
    """
    metrics, _ = _metrics_of(sheet, track, summaries)
    rows: list[Row] = []
    for group, entries in _groups(sheet, track, summaries):
        better = _better(sheet, group)
        places = _places(entries, better)
        ordered = sorted(entries, key=lambda entry: _order(entry, better))
        rows += [_row(sheet, entry, metrics, summaries) | places.get(id(entry), {}) for entry in ordered]
    frame = table(rows, wide_columns(metrics))
    double = frame.duplicated(["dataset", "subject", "condition", "method", "variant", "method_version"])
    if double.any():
        first = frame[double].iloc[0]
        raise BoardError(
            f"two lines of {track} are one: {first['dataset']}, {first['subject']}, {first['method']}",
            "keep splits of a data set on boards of their own",
        )
    return frame


def sidecar(sheet: Sheet, track: str, summaries: Summaries, problems: list[Problem]) -> dict[str, Any]:
    """What a reader of the track's board has to know besides its numbers; ready for JSON."""
    groups = _groups(sheet, track, summaries)
    entries = [entry for _, members in groups for entry in members]
    lines = [entry.line for entry in entries]
    described = [_describe_group(sheet, group, members) for group, members in groups]
    metrics, absent = _metrics_of(sheet, track, summaries)
    records = {record.key: record for line in lines for record in line.records}
    damaged = {problem.key: problem.reason for problem in problems}
    index = sheet.index
    notes = {"notes": list(index.track_notes[track])} if track in index.track_notes else {}
    return {
        "board": index.board,
        "suite": index.suite,
        "profile": index.profile,
        "suite_version": index.suite_version,
        "protocol": index.protocol,
        "track": track,
        "primary": index.primary.get(track, ""),
        "comparisons": sum(group["comparisons"] for group in described),
        "interval": {"level": LEVEL, "kind": "percentile bootstrap", "draw_seed": DRAW_SEED},
        **notes,
        "metrics": [_describe_metric(sheet, track, metric, lines) for metric in metrics],
        "without_value": [_why_absent(sheet, track, metric, lines) for metric in absent],
        "groups": described,
        "reference_rows": [_name(line) for line in lines if line.is_reference],
        "unranked": [_name(entry.line) | {"reason": entry.unranked} for entry in entries if entry.unranked],
        "gate_overridden": sorted(
            {record.identity.subject for record in records.values() if record.notes.get("gate_overridden")}
        ),
        "not_ok": [failure for line in lines for failure in _not_ok(line)],
        "missing": [gap for line in lines for gap in _missing(line) if gap["cell"] not in damaged],
        "damaged": [{"cell": key, "reason": reason} for key, reason in sorted(damaged.items())],
        "settings": settings_of(lines),
    }


# ---- groups and their ranks ----------------------------------------------------------------------------------------


def _groups(sheet: Sheet, track: str, summaries: Summaries) -> list[tuple[Group, list[_Entry]]]:
    lines = (line for line in sheet.lines if line.key.group.track == track)
    return [
        (group, [_entry(sheet, line, summaries) for line in members])
        for group, members in groupby(lines, key=lambda line: line.key.group)
    ]


def _entry(sheet: Sheet, line: Line, summaries: Summaries) -> _Entry:
    metric = sheet.primary[line.key.group]
    known = sheet.metrics.get((line.key.group.track, metric))
    summary = summaries[line.key].get((metric, known.version)) if known else None
    return _Entry(line, summary, _why_unranked(sheet, line, metric, summary))


def _why_unranked(sheet: Sheet, line: Line, metric: str, summary: Summary | None) -> str:
    planned = len(line.planned)
    if line.is_doubtful:
        return "selftest failed"
    if line.is_reference and not sheet.index.rank_references:
        return "reference: shows real images"
    if not line.is_complete:
        return f"{line.n_ok} of {planned} cells ok"
    if summary is None or summary.n_seeds < planned:
        return f"{metric} has a value for {summary.n_seeds if summary else 0} of {planned} seeds"
    if summary.scores[0].reading is not None and summary.scores[0].reading.better == "neither":
        return f"{metric} has no better direction"
    if any(record.provenance.get("source", "measured") != "measured" for record in line.records):
        return "not measured here"
    return ""


def _better(sheet: Sheet, group: Group) -> Better:
    known = sheet.metrics.get((group.track, sheet.primary[group]))
    return known.card.better if known else "neither"


def _places(entries: list[_Entry], better: Better) -> dict[int, Row]:
    """Rank, its interval and tier of each entry that has one. Without intervals of all there is only the rank."""
    ranked = [entry for entry in entries if not entry.unranked]
    if not ranked or better == "neither":
        return {}
    values = np.array([entry.value for entry in ranked], dtype=np.float64)
    places: list[Row] = [{"rank": int(rank)} for rank in ranks(values, better)]
    drawn = [entry.primary.replicates for entry in ranked if entry.primary and entry.primary.replicates is not None]
    if len(drawn) == len(ranked):
        for place, more in zip(places, _uncertainty(ranked, values, drawn, better), strict=True):
            place |= more
    return {id(entry): place for entry, place in zip(ranked, places, strict=True)}


def _uncertainty(
    ranked: list[_Entry], values: Floats, drawn: list[Floats], better: Literal["higher", "lower"]
) -> list[Row]:
    low, high = rank_intervals(np.stack(drawn), better)
    ends = np.array([entry.primary.interval[:2] for entry in ranked if entry.primary and entry.primary.interval])
    tier = tiers(values, ends[:, 0], ends[:, 1], better)
    return [{"rank_low": int(a), "rank_high": int(b), "tier": int(c)} for a, b, c in zip(low, high, tier, strict=True)]


def _order(entry: _Entry, better: Better) -> tuple[Any, ...]:
    value = entry.value
    merit = 0.0 if value is None or better == "neither" else -value if better == "higher" else value
    return (entry.line.is_doubtful, not entry.line.is_complete, value is None, merit, *entry.line.key[1:])


# ---- rows and descriptions -----------------------------------------------------------------------------------------


def _metrics_of(sheet: Sheet, track: str, summaries: Summaries) -> tuple[list[str], list[str]]:
    """Those that rank first, then the others that some line has a value of, by name; and the rest of them."""
    ranking = {metric for group, metric in sheet.primary.items() if group.track == track}
    taken = {metric: known.version for (of, metric), known in sheet.metrics.items() if of == track}
    found = [summaries[line.key] for line in sheet.lines if line.key.group.track == track]
    valued = {
        metric
        for metric, version in taken.items()
        for of_line in found
        if (metric, version) in of_line and of_line[metric, version].value is not None
    }
    return [*sorted(ranking), *sorted(valued - ranking)], sorted(taken.keys() - valued - ranking)


def _row(sheet: Sheet, entry: _Entry, metrics: list[str], summaries: Summaries) -> Row:
    line = entry.line
    group, method, variant, version = line.key
    row: Row = {"dataset": group.dataset, "subject": group.subject, "condition": group.condition}
    row |= {"method": method, "variant": variant, "method_version": version}
    for metric in metrics:
        known = sheet.metrics.get((group.track, metric))
        summary = summaries[line.key].get((metric, known.version)) if known else None
        if summary is not None and summary.value is not None:
            row[metric] = summary.value
            if summary.interval is not None:
                row |= {f"{metric}_ci_low": summary.interval.low, f"{metric}_ci_high": summary.interval.high}
    done = [record for record in line.records if record.status == "ok"]
    seconds = [record.cost.wall_s for record in done if record.cost.wall_s is not None]
    peaks = [record.cost.gpu_peak_mib for record in done if record.cost.gpu_peak_mib is not None]
    started = [str(record.provenance["started_utc"]) for record in line.records if "started_utc" in record.provenance]
    return row | {
        "n_seeds": entry.primary.n_seeds if entry.primary else 0,
        "n_ok": line.n_ok,
        "n_cells": len(line.planned),
        "wall_s": statistics.fmean(seconds) if seconds else None,
        "gpu_peak_mib": max(peaks, default=None),
        "suite_version": sheet.index.suite_version,
        "updated_utc": max(started, default=""),
    }


def _name(line: Line) -> Row:
    group = line.key.group
    return {
        "dataset": group.dataset,
        "subject": group.subject,
        "condition": group.condition,
        "method": line.key.method,
        "variant": line.key.variant,
    }


def _not_ok(line: Line) -> list[Row]:
    return [
        _name(line)
        | {"seed": record.identity.seed, "cell": record.key, "status": record.status, "error": record.error[:200]}
        for record in line.records
        if record.status != "ok"
    ]


def _missing(line: Line) -> list[Row]:
    """Cells that are planned and have no record."""
    there = {record.key for record in line.records}
    absent = [cell for cell in line.planned if cell.key not in there]
    return [
        _name(line) | {"seed": cell.identity.seed, "cell": cell.key}
        for cell in sorted(absent, key=lambda cell: (cell.identity.seed, cell.key))
    ]


def _describe_metric(sheet: Sheet, track: str, metric: str, lines: list[Line]) -> Row:
    known = sheet.metrics.get((track, metric))
    if known is None:
        return {"metric": metric, "note": "nobody measured it"}
    card = known.card
    readings = [
        score.reading for line in lines for score in line.scores.get((metric, known.version), []) if score.reading
    ]
    return {
        "metric": metric,
        "stem": card.stem,
        "version": card.metric_version,
        "unit": card.unit,
        "better": card.better,
        "decimals": card.decimals,
        "per": card.per,
        "resample": card.resample,
        "n_scored": sorted({reading.n_scored for reading in readings if reading.n_scored is not None}),
        "n_reference": sorted({reading.n_reference for reading in readings if reading.n_reference is not None}),
    }


def _why_absent(sheet: Sheet, track: str, metric: str, lines: list[Line]) -> Row:
    """What kept the first line from a value; ``results.csv`` has the reason of each cell."""
    known = sheet.metrics[track, metric]
    first = next(score for line in lines for score in line.scores.get((metric, known.version), []))
    return {
        "metric": metric,
        "stem": known.card.stem,
        "version": known.card.metric_version,
        "status": first.status,
        "error": first.error,
    }


def _describe_group(sheet: Sheet, group: Group, entries: list[_Entry]) -> Row:
    ranked = [entry for entry in entries if not entry.unranked]
    return {
        "dataset": group.dataset,
        "split": group.split,
        "subject": group.subject,
        "condition": group.condition,
        "primary": sheet.primary[group],
        "better": _better(sheet, group),
        "ranked": len(ranked),
        "comparisons": len(ranked) * (len(ranked) - 1) // 2,
        "paired": len({_shape(entry) for entry in ranked}) <= 1,
    }


def _shape(entry: _Entry) -> tuple[int, ...]:
    """Numbers of units drawn from, seed by seed; rows are paired where they are equal."""
    scores = entry.primary.scores if entry.primary else []
    return tuple(len(score.sample.numbers) if score.sample else 0 for score in scores)
