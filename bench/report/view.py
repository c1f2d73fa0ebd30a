"""What a board says, as text: the words of the terminal, and of the page where they serve."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from bench.leaderboard import PLACE, Boards

GAP = "–"  # where there is no number
VERDICTS = ("holds", "fails", "unclear", "no value")
ROW = ("subject", "condition", "method", "variant")  # what names a row of a board


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
    notes: tuple[str, ...]  # what the suite says about this board
    groups: tuple[Group, ...]
    failures: tuple[str, ...]  # one line a cell that has no result
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One compared pair of rows."""

    verdict: str
    place: str  # what both rows share
    of: str  # what tells the one that should be better
    against: str
    metric: str
    values: str  # of both, empty where there are none
    difference: str  # with its interval
    seeds: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the suite and all its answers."""

    claim: str
    source: str
    track: str
    rule: str  # what is compared, and when it holds
    counts: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Claims:
    """All claims of a board; none where the suite makes none."""

    summary: str
    claims: tuple[Claim, ...]


def claims(boards: Boards) -> Claims:
    """The suite's claims and what the records answer, as text."""
    rows: list[dict[Any, Any]] = [] if boards.claims is None else boards.claims.to_dict("records")
    rows = [row for row in rows if not row.get("part")]  # parts of verdicts are told by bench/report/verdicts.py
    decimals = decimals_of(boards)
    if len({row["dataset"] for row in rows}) == 1:
        rows = [row | {"dataset": ""} for row in rows]  # it goes without saying
    return Claims(
        summary=f"{_counts(rows)}; comparisons: {len(rows)}, each at 95 %, not corrected for their number",
        claims=tuple(_claim(head, list(members), decimals) for head, members in groupby(rows, key=_claimed)),
    )


def decimals_of(boards: Boards) -> dict[tuple[str, str], int]:
    """(track, metric) → decimals of its numbers."""
    return {
        (track, metric["metric"]): metric.get("decimals", 4)
        for track, sidecar in boards.sidecars.items()
        for metric in sidecar["metrics"]
    }


def tracks(boards: Boards) -> list[Track]:
    """All boards as text, by track."""
    return [_track(name, boards.wide[name], boards.sidecars[name]) for name in boards.wide]


def _track(name: str, frame: pd.DataFrame, sidecar: Mapping[str, Any]) -> Track:
    metrics = {metric["metric"]: metric for metric in sidecar["metrics"]}
    reasons = {_place(row): row["reason"] for row in sidecar["unranked"]}
    groups = []
    for described in sidecar["groups"]:
        place = [described[key] for key in PLACE]
        rows = frame[(frame[list(PLACE)] == place).all(axis=1)]
        groups.append(_group(" · ".join(filter(None, place)), described["primary"], rows, metrics, reasons))
    return Track(
        name=name,
        summary=_summary(sidecar, frame),
        notes=tuple(sidecar.get("notes", ())),
        groups=tuple(groups),
        failures=tuple(failures(sidecar)),
        warnings=tuple(warnings(sidecar)),
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


def _summary(sidecar: Mapping[str, Any], frame: pd.DataFrame) -> str:
    ranked = ranked_by(sidecar, frame)
    return f"ranked by {ranked}; {sidecar['comparisons']} comparisons; suite {sidecar['suite_version']}"


def ranked_by(sidecar: Mapping[str, Any], frame: pd.DataFrame) -> str:
    """The metrics that rank, each with its better direction."""
    ranking = {group["primary"]: group["better"] for group in sidecar["groups"]}
    return ", ".join(_ranked_by(metric, better, frame) for metric, better in sorted(ranking.items()))


def _ranked_by(metric: str, better: str, frame: pd.DataFrame) -> str:
    if better != "neither":
        return f"{metric} ({better} is better)"
    return f"nothing: {metric} has no {'direction' if frame[metric].notna().any() else 'value yet'}"


def failures(sidecar: Mapping[str, Any]) -> Iterable[str]:
    """One line a cell that has no result."""
    for cell in sidecar["not_ok"]:
        yield f"{_cell(cell)}: {cell['status']}{': ' + cell['error'] if cell['error'] else ''}"
    for cell in sidecar["missing"]:
        yield f"{_cell(cell)}: not run yet"
    for cell in sidecar["damaged"]:
        yield f"cell {cell['cell']}: record damaged: {cell['reason']}"


def warnings(sidecar: Mapping[str, Any]) -> Iterable[str]:
    """What a reader of the numbers should know first."""
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
    return tuple(str(row[name]) for name in (*PLACE, "method", "variant"))


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


# ---- claims --------------------------------------------------------------------------------------------------------


def _claimed(row: Mapping[Any, Any]) -> tuple[str, str, str, str, float]:
    return row["claim"], row["source"], row["track"], row["control"], row["margin"]


def _claim(
    head: tuple[str, str, str, str, float], rows: list[dict[Any, Any]], decimals: Mapping[tuple[str, str], int]
) -> Claim:
    claim, source, track, control, margin = head
    compared = f"{track}, gaps to {control}" if control else track
    answers = tuple(_answer(row, decimals.get((track, row["metric"]), 4)) for row in rows)
    rule = f"{compared}; holds where the interval of the gain lies above {margin:g}"
    return Claim(claim=claim, source=source, track=track, rule=rule, counts=_counts(rows), answers=answers)


def _counts(rows: Iterable[Mapping[Any, Any]]) -> str:
    found = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{verdict} {found[verdict]}" for verdict in VERDICTS if verdict != "no value" or found[verdict])


def _answer(row: Mapping[Any, Any], decimals: int) -> Answer:
    place, of, against = names_apart(row)
    has_value = not pd.isna(row["difference"])
    return Answer(
        verdict=row["verdict"],
        place=" · ".join(filter(None, (row["dataset"], place))),
        of=of,
        against=against,
        metric=row["metric"] + (", lower is better" if row["better"] == "lower" else ""),
        values=f"{row['of_value']:.{decimals}f} against {row['against_value']:.{decimals}f}" if has_value else "",
        difference=signed_with_interval(row, decimals) if has_value else "",
        seeds=_whole(row["n_seeds"]) if has_value else "",
        reason=row["reason"],
    )


def names_apart(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    """What both rows of a comparison share, and what names the first and the second."""
    fields = [(str(row[f"of_{name}"]), str(row[f"against_{name}"])) for name in ROW]
    hidden = ("", "default")
    shared = [of for of, against in fields if of == against and of not in hidden]
    apart = [both for both in fields if both[0] != both[1]]
    return " · ".join(shared), _named(of for of, _ in apart), _named(against for _, against in apart)


def _named(names: Iterable[str]) -> str:
    """What names a row, without a variant that says nothing beside the rest."""
    return " · ".join(name for name in names if name != "default") or "default"


def signed_with_interval(row: Mapping[Any, Any], decimals: int) -> str:
    """The difference of a row of ``claims.csv``, with the interval that it has."""
    value, low, high = (_signed(row[name], decimals) for name in ("difference", "ci_low", "ci_high"))
    return value if pd.isna(row["ci_low"]) else f"{value} [{low}, {high}]"


def _signed(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"  # + 0.0: no minus before a zero
