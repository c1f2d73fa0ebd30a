"""Whether a device buys what its claim says: one verdict a data set, from several metrics at once, and one across them.

A metric **gains** where the difference (row with the device - row without), turned so that larger is better, lies
above the seed spread and its interval above 0. The **seed spread** is the larger of both rows' unbiased standard
deviations over the seeds that are compared. The guard is **kept** where its difference, turned in the same way, is not
below the margin; its value alone counts, the interval is shown.

On one data set: *supported* when a metric of every group gains and the guard is kept; *not supported* when no group
gains or the guard is broken; *mixed* when some group gains and another does not; *undecided* when what is missing could
change the answer. Across data sets, of those that have a verdict: *undecided* below ``across`` of them; *supported*,
or *not supported*, when at least ``across`` and all but one at most say so; *mixed* otherwise.

Source: section 7.2 of the specification of network inversion [our choice]; its "three of four" is ``across`` 3.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from bench.leaderboard.comparisons import NAMES, Finding, Row, asked_columns, number_columns
from bench.record import VerdictRule

Verdict = Literal["supported", "mixed", "not supported", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("supported", "mixed", "not supported", "undecided")

_ROUNDING = 1e-9  # a loss of exactly the margin is kept, however the means were rounded
_ANSWERS = {"gains": True, "kept": True, "no gain": False, "broken": False}  # any other answer is not known
_SIDES = tuple(f"{side}_{field}" for side in ("of", "against") for field in NAMES)
_WORDS = {True: "gains", False: "no gain", None: "not known"}
_SHARED = ("claim", "source", "track", "dataset", *_SIDES)


def verdict_rows(rule: VerdictRule, found: Sequence[Finding]) -> list[Row]:
    """Of each pair a row a metric and one with its verdict, then one for all data sets.

    Args:
        found: of the claim's metrics times its pairs.
    """
    by_pair: dict[tuple[object, ...], dict[str, Finding]] = {}
    for one in found:
        by_pair.setdefault(tuple(term.name for term in one.asked.terms), {})[one.asked.stem] = one
    rows, verdicts = [], []
    for by_stem in by_pair.values():
        parts = list(_parts(rule, by_stem))
        verdicts.append(_on_one(rule, parts))
        rows += [*parts, verdicts[-1]]
    return [*rows, _over_all(rule, verdicts)]


def on_data_set(groups: Collection[bool | None], guard: bool | None) -> Verdict:
    """The verdict where ``groups`` say whether a metric of each gains, None where that is not known."""
    if guard is False or not any(gains is not False for gains in groups):
        return "not supported"
    if guard is None:
        return "undecided"
    if True in groups and False in groups:
        return "mixed"
    return "undecided" if None in groups else "supported"


def across_data_sets(verdicts: Iterable[Verdict], across: int) -> Verdict:
    """The verdict over the data sets that have one."""
    decided = [verdict for verdict in verdicts if verdict != "undecided"]
    if len(decided) < across:
        return "undecided"
    for verdict in ("supported", "not supported"):
        if decided.count(verdict) >= max(across, len(decided) - 1):
            return verdict
    return "mixed"


# ---- one data set --------------------------------------------------------------------------------------------------


def _parts(rule: VerdictRule, found: Mapping[str, Finding]) -> Iterable[Row]:
    for group, gains in rule.gains.items():
        for gain in gains:
            row = _measured(found[gain.metric], f"gain in {group}", gain.better)
            yield row if "verdict" in row else row | {"verdict": _gain(row)}
    row = _measured(found[rule.guard.metric], "guard", None) | {"margin": rule.guard.margin}
    yield row if "verdict" in row else row | {"verdict": _guard(row)}


def _measured(one: Finding, part: str, better: str | None) -> Row:
    """The numbers of one part; with a verdict only where they cannot be judged."""
    row = asked_columns(one.asked) | number_columns(one) | {"part": part}
    row["better"] = better or row["better"]
    if one.difference is None:
        return row | {"verdict": "no value"}
    if len(one.difference.by_seed) < 2:
        return _unclear(row, "one seed has no spread")
    row["seed_spread"] = float(one.difference.by_seed.std(axis=0, ddof=1).max())
    return row if row["better"] in ("higher", "lower") else _unclear(row, "the metric has no better direction")


def _unclear(row: Row, why: str) -> Row:
    return row | {"verdict": "unclear", "reason": "; ".join(filter(None, (row["reason"], why)))}


def _turned(row: Row, *columns: str) -> list[float]:
    """Numbers turned so that larger is better."""
    return [-row[name] if row["better"] == "lower" else row[name] for name in columns]


def _gain(row: Row) -> str:
    if "ci_low" not in row:
        return "unclear"
    difference, *ends = _turned(row, "difference", "ci_low", "ci_high")
    return "gains" if difference > row["seed_spread"] and min(ends) > 0 else "no gain"


def _guard(row: Row) -> str:
    (difference,) = _turned(row, "difference")
    return "kept" if difference >= row["margin"] - _ROUNDING else "broken"


def _on_one(rule: VerdictRule, parts: Sequence[Row]) -> Row:
    """The row of the verdict on the data set of ``parts``."""
    *gains, guard = parts
    answers = {group: _any(row for row in gains if row["part"] == f"gain in {group}") for group in rule.gains}
    kept = _ANSWERS.get(guard["verdict"])
    verdict = on_data_set(answers.values(), kept)
    said = [f"{group} {_WORDS[answer]}" for group, answer in answers.items()] + [f"guard {guard['verdict']}"]
    missing = [row["reason"] for row in parts if row["verdict"] not in _ANSWERS] if verdict == "undecided" else []
    reason = "; ".join(dict.fromkeys([", ".join(said), *missing]))
    return {name: guard[name] for name in _SHARED} | {"part": "data set", "verdict": verdict, "reason": reason}


def _any(rows: Iterable[Row]) -> bool | None:
    """Whether one of a group's metrics gains; None where one that cannot be judged might."""
    answers = [_ANSWERS.get(row["verdict"]) for row in rows]
    return True if True in answers else None if None in answers else False


# ---- all data sets -------------------------------------------------------------------------------------------------


def _over_all(rule: VerdictRule, rows: Sequence[Row]) -> Row:
    """The row of the verdict across data sets; names that differ between them are left out."""
    verdict = across_data_sets([row["verdict"] for row in rows], rule.across)
    on = {one: [row["dataset"] for row in rows if row["verdict"] == one] for one in VERDICTS}
    decided = len(rows) - len(on["undecided"])
    said = [f"{one} on {', '.join(datasets)}" for one, datasets in on.items() if datasets]
    if verdict == "undecided":
        said.insert(0, f"{decided} of the {rule.across} data sets that it takes have a verdict")
    shared = {name: rows[0][name] for name in _SHARED if len({row[name] for row in rows}) == 1}
    return shared | {"dataset": "", "part": "across data sets", "verdict": verdict, "reason": "; ".join(said)}
