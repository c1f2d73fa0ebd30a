"""What a board says, as text: the same words for the terminal and the page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.leaderboard import Boards

GAP = "–"  # where there is no number


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method, every number with its decimals."""

    rank: str
    tier: str
    method: str
    primary: str
    others: tuple[str, ...]
    seeds: str
    wall_s: str
    note: str  # why it has no rank


@dataclass(frozen=True, kw_only=True)
class Group:
    """The lines of one (data set, subject, condition)."""

    title: str
    primary: str
    others: tuple[str, ...]  # names of the other metrics that somebody has here
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Track:
    """One track's board."""

    name: str
    summary: str
    groups: tuple[Group, ...]
    failures: tuple[str, ...]  # one line a cell that has no result
    warnings: tuple[str, ...]


def tracks(boards: Boards) -> list[Track]:
    """All boards as text, by track."""
    return [_track(name, boards.wide[name], boards.sidecars[name]) for name in boards.wide]


def _track(name: str, frame: pd.DataFrame, sidecar: Mapping[str, Any]) -> Track:
    metrics = {metric["metric"]: metric for metric in sidecar["metrics"]}
    reasons = {_place(row): row["reason"] for row in sidecar["unranked"]}
    groups = []
    for described in sidecar["groups"]:
        place = [described[key] for key in ("dataset", "subject", "condition")]
        rows = frame[(frame[["dataset", "subject", "condition"]] == place).all(axis=1)]
        groups.append(_group(" · ".join(filter(None, place)), described["primary"], rows, metrics, reasons))
    return Track(
        name=name,
        summary=_summary(sidecar, metrics),
        groups=tuple(groups),
        failures=tuple(_failures(sidecar)),
        warnings=tuple(_warnings(sidecar)),
    )


def _group(
    title: str,
    primary: str,
    rows: pd.DataFrame,
    metrics: Mapping[str, Mapping[str, Any]],
    reasons: Mapping[tuple[str, ...], str],
) -> Group:
    others = tuple(metric for metric in metrics if metric != primary and rows[metric].notna().any())
    lines = [
        Line(
            rank=_rank(row),
            tier=_whole(row["tier"]),
            method=row["method"] if row["variant"] == "default" else f"{row['method']} ({row['variant']})",
            primary=_with_interval(row, primary, metrics),
            others=tuple(_number(row[metric], metrics[metric].get("decimals", 4)) for metric in others),
            seeds=f"{_whole(row['n_seeds'])}/{_whole(row['n_cells'])}",
            wall_s=_number(row["wall_s"], 1),
            note=reasons.get(_place(row), ""),
        )
        for row in rows.to_dict("records")
    ]
    return Group(title=title, primary=primary, others=others, lines=tuple(lines))


def _summary(sidecar: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    ranking = {group["primary"]: group["better"] for group in sidecar["groups"]}
    named = ", ".join(
        f"{metric} ({better} is better)" if better != "neither" else f"nothing: {metric} has no direction"
        for metric, better in sorted(ranking.items())
    )
    return f"ranked by {named}; {sidecar['comparisons']} comparisons; suite {sidecar['suite_version']}"


def _failures(sidecar: Mapping[str, Any]) -> Iterable[str]:
    for cell in sidecar["not_ok"]:
        yield f"{_cell(cell)}: {cell['status']}{': ' + cell['error'] if cell['error'] else ''}"
    for cell in sidecar["missing"]:
        yield f"{_cell(cell)}: not run yet"
    for cell in sidecar["damaged"]:
        yield f"cell {cell['cell']}: record damaged: {cell['reason']}"


def _warnings(sidecar: Mapping[str, Any]) -> Iterable[str]:
    for subject in sidecar["gate_overridden"]:
        yield f"{subject}: its accuracy is below the gate, which was overridden"
    reasons: dict[str, list[str]] = {}
    for metric in sidecar["without_value"]:
        reasons.setdefault(f"{metric['status']}: {metric['error']}", []).append(metric["metric"])
    yield from (f"no value of {', '.join(metrics)}: {reason}" for reason, metrics in reasons.items())
    for group in sidecar["groups"]:
        if not group["paired"]:
            place = " · ".join(filter(None, (group["dataset"], group["subject"], group["condition"])))
            yield f"{place}: rows have different numbers of units or seeds, their intervals are not paired"


def _place(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("dataset", "subject", "condition", "method", "variant"))


def _cell(cell: Mapping[str, Any]) -> str:
    return " · ".join([*filter(None, _place(cell)), f"seed {cell['seed']}"])


def _rank(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["rank"]) or pd.isna(row["rank_low"]):
        return _whole(row["rank"])
    return f"{row['rank']} [{row['rank_low']}{GAP}{row['rank_high']}]"


def _with_interval(row: Mapping[Any, Any], metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    decimals = metrics[metric].get("decimals", 4)
    low, high = row[f"{metric}_ci_low"], row[f"{metric}_ci_high"]
    value = _number(row[metric], decimals)
    return value if pd.isna(low) else f"{value} [{_number(low, decimals)}, {_number(high, decimals)}]"


def _number(value: Any, decimals: int) -> str:
    return GAP if pd.isna(value) else f"{value:.{decimals}f}"


def _whole(value: Any) -> str:
    return GAP if pd.isna(value) else str(int(value))
