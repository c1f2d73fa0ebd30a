"""What a suite's verdicts say, as text: a line a data set and one across them, with the numbers behind each."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from bench.leaderboard import VERDICTS, Boards
from bench.report.view import GAP, decimals_of, names_apart, signed_with_interval

ACROSS = "across data sets"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one data set, or across them."""

    verdict: str
    dataset: str  # empty across them
    place: str  # the data set, and what else both rows share
    numbers: tuple[str, ...]  # one a metric; none across data sets, nor where no metric has a value
    reason: str


@dataclass(frozen=True, kw_only=True)
class Device:
    """One claim and its verdicts."""

    claim: str
    source: str
    track: str
    rule: str  # what is compared, and when it is supported
    judgements: tuple[Judgement, ...]

    def on(self, dataset: str) -> str:
        """Its verdict there, or across data sets for an empty name; a dash where its rows are not run."""
        return next((one.verdict for one in self.judgements if one.dataset == dataset), GAP)


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """All of a board; none where the suite asks for none."""

    summary: str
    devices: tuple[Device, ...]

    @property
    def datasets(self) -> list[str]:
        """Those that any verdict is about."""
        return list(dict.fromkeys(one.dataset for device in self.devices for one in device.judgements if one.dataset))


def verdicts(boards: Boards) -> Verdicts:
    """The suite's verdicts as text, in the order of the suite."""
    rows: list[dict[Any, Any]] = []
    if boards.claims is not None and "part" in boards.claims:
        rows = boards.claims[boards.claims["part"] != ""].to_dict("records")
    decimals = decimals_of(boards)
    counted = [
        f"{place}: {_counts(row for row in rows if row['part'] == part)}"
        for place, part in (("on one data set", "data set"), (ACROSS, ACROSS))
    ]
    devices = [_device(list(members), decimals) for _, members in groupby(rows, key=_claimed)]
    return Verdicts(summary="; ".join(counted), devices=tuple(devices))


def _claimed(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    return row["claim"], row["source"], row["track"]


def _counts(rows: Iterable[Mapping[Any, Any]]) -> str:
    found = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{verdict} {found[verdict]}" for verdict in VERDICTS)


def _device(rows: list[dict[Any, Any]], decimals: Mapping[tuple[str, str], int]) -> Device:
    judgements, parts = [], list[Mapping[Any, Any]]()
    for row in rows:
        if row["part"] in ("data set", ACROSS):
            has_value = any(not pd.isna(part["difference"]) for part in parts)  # else the reason says why not
            numbers = [_number(part, decimals.get((part["track"], part["metric"]), 4)) for part in parts if has_value]
            where = {"dataset": row["dataset"], "place": _place(row)}
            judgements.append(Judgement(verdict=row["verdict"], numbers=tuple(numbers), reason=row["reason"], **where))
            parts = []
        else:
            parts.append(row)
    first = rows[0]
    said = {key: first[key] for key in ("claim", "source", "track")}
    return Device(**said, rule=_rule(rows), judgements=tuple(judgements))


def _place(row: Mapping[Any, Any]) -> str:
    if row["part"] == ACROSS:
        return ACROSS
    shared, _, _ = names_apart(row)
    return " · ".join(filter(None, (row["dataset"], shared)))


def _rule(rows: list[dict[Any, Any]]) -> str:
    groups = dict.fromkeys(row["part"].removeprefix("gain in ") for row in rows if row["part"].startswith("gain in "))
    guard = next(row for row in rows if row["part"] == "guard")
    _, of, against = names_apart(guard)
    return (
        f"{guard['track']}, {of} against {against}; supported where a metric of each of {', '.join(groups)} gains more "
        f"than the seed spread with its interval above 0, and {guard['metric']} loses at most {-guard['margin']:g}"
    )


def _number(row: Mapping[Any, Any], decimals: int) -> str:
    """One metric: its difference with interval and seed spread, and what follows."""
    part = "guard" if row["part"] == "guard" else row["part"].removeprefix("gain in ")
    name = f"{part}: {row['metric']}" + (", lower is better" if row["better"] == "lower" else "")
    if pd.isna(row["difference"]):
        return f"{name}: {row['verdict']}"
    spread = "" if pd.isna(row["seed_spread"]) else f", seed spread {row['seed_spread']:.{decimals}f}"
    seeds = f", {row['n_seeds']} seeds" if row["n_seeds"] != 1 else ", 1 seed"
    return f"{name} {signed_with_interval(row, decimals)}{spread}{seeds}: {row['verdict']}"
