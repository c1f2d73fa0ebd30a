"""What changed between two boards, and whether it counts: conditions first, then size, then an interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from bench.leaderboard.boards import Boards
from bench.leaderboard.lines import Sample
from bench.leaderboard.statistics import interval, over_seeds, paired_difference

Kind = Literal["worse", "better", "unclear", "conditions", "added"]

LINE = ["track", "dataset", "split", "subject", "condition", "method", "variant"]
# Numbers made under different ones of these are not compared.
CONDITIONS = (
    *("metric_version", "method_version", "weights_sha256", "data_sha256"),
    *("precision", "gpu_name", "torch"),
)
# What a clock or a memory gauge gave, as in bench.contract: compared on one machine alone, loosely, and never an alarm:
# nothing is paired in it, and a machine that was busy looks like a slower method.
TIMED_UNITS = ("ms", "s", "images/s", "MiB", "×")
MACHINE = ("host", "gpu_name")

_NEEDED = [
    *LINE,
    *("metric", "seed", "aggregate", "value", "unit", "higher_is_better", "ci_low", "ci_high", "status", "error"),
    *("cell_id", "host", *CONDITIONS),
]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How large a difference must be to count: larger than both."""

    absolute: float = 0.0  # in the metric's unit
    relative: float = 0.0  # of the old value's size

    def covers(self, old: float, new: float) -> bool:
        """Whether the difference is too small to count."""
        return abs(new - old) <= max(self.absolute, self.relative * abs(old))


# By the start of the metric's name; starting points, to be moved when nightly runs show their spread.
TOLERANCES: Mapping[str, Tolerance] = {
    "frechet": Tolerance(absolute=0.05, relative=0.01),
    "lpips": Tolerance(absolute=1e-3),
    "ssim": Tolerance(absolute=1e-3),
    "": Tolerance(relative=1e-3),
}
_FRACTION = Tolerance(absolute=1e-3)  # 0.1 points of accuracy
_TIMED = Tolerance(relative=0.1)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One line and metric that is not as it was.

    Args:
        line: track, data set, split, subject, condition, method, variant.
        metric: empty where the line as a whole changed.
        kind: worse and better are beyond the tolerance with an interval that excludes 0, or a change of status;
            unclear is beyond the tolerance alone; conditions says that nothing can be compared.
        old, new: means over seeds; None where there is none.
        low, high: interval of new − old; None where it was judged by two intervals that overlap or not.
        paired: whether unit was compared with unit.
        reason: one line for people.
    """

    line: tuple[str, ...]
    metric: str
    kind: Kind
    reason: str
    old: float | None = None
    new: float | None = None
    low: float | None = None
    high: float | None = None
    paired: bool = False


def compare(old: Boards, new: Boards, tolerances: Mapping[str, Tolerance] = TOLERANCES) -> list[Difference]:
    """Differences of the lines of ``new`` from those of ``old``, in the order of the boards; equal ones are left out.

    A cell that was ok and is not, or is missing, is worse. A number counts when its tolerance is exceeded and, unit
    by unit where both boards have their samples, the interval of the difference excludes 0; without samples the two
    intervals of the tables must not overlap, and the difference is not ``paired``. What a clock gave is ``unclear`` at
    most.
    """
    protocols = [", ".join(sorted(boards.long["suite_version"].unique())) for boards in (old, new)]
    if all(protocols) and protocols[0] != protocols[1]:
        return [_conditions((), "", f"suite_version {protocols[0]} → {protocols[1]}")]
    before, after = _lines(old), _lines(new)
    found = []
    for line, rows in before.items():
        if line not in after:
            found.append(Difference(line=line, metric="", kind="worse", reason="missing"))
            continue
        found += _of_status(line, rows, after[line])
        found += _of_numbers(line, _Side(rows, old), _Side(after[line], new), tolerances)
    found += [
        Difference(line=line, metric="", kind="added", reason="not there before")
        for line in after
        if line not in before
    ]
    return found


def worse(differences: list[Difference]) -> list[Difference]:
    """What should raise an alarm: at most one difference a line."""
    first: dict[tuple[str, ...], Difference] = {}
    for difference in differences:
        if difference.kind == "worse":
            first.setdefault(difference.line, difference)
    return list(first.values())


# ---- one line ------------------------------------------------------------------------------------------------------

Row = Mapping[str, Any]
_GONE = ("missing", "")


@dataclass(frozen=True)
class _Side:
    """The rows of one line, and the boards that they are from."""

    rows: list[Row]
    boards: Boards

    def seeds(self, metric: str) -> dict[int, Row]:
        """Seed → its row, of the newest version, for the seeds that have a value."""
        return {
            int(row["seed"]): row
            for row in self.rows
            if row["aggregate"] == "seed" and row["metric"] == metric and row["status"] == "ok"
        }

    def ends(self, metric: str) -> tuple[float, float] | None:
        """The interval of the mean over seeds, as the table has it."""
        rows = [row for row in self.rows if row["aggregate"] == "mean" and row["metric"] == metric]
        if not rows or math.isnan(rows[-1]["ci_low"]):
            return None
        return rows[-1]["ci_low"], rows[-1]["ci_high"]

    def sample(self, row: Row) -> Sample | None:
        return self.boards.samples(row["cell_id"]).get(row["metric"])


def _lines(boards: Boards) -> dict[tuple[str, ...], list[Row]]:
    rows: list[Any] = boards.long[_NEEDED].to_dict("records")
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in LINE), []).append(row)
    return lines


def _of_status(line: tuple[str, ...], old: list[Row], new: list[Row]) -> list[Difference]:
    """At most one a direction: the first seed and metric that was ok and is not, and the other way round."""
    if _machines(old) != _machines(new):  # what one can measure, another may not
        old, new = ([row for row in rows if row["unit"] not in TIMED_UNITS] for rows in (old, new))
    before, after = _statuses(old), _statuses(new)
    found = []
    directions: tuple[tuple[Kind, Any, Any], ...] = (("worse", before, after), ("better", after, before))
    for kind, good, other in directions:
        lost = [place for place, (status, _) in good.items() if status == "ok" and other.get(place, _GONE)[0] != "ok"]
        if lost:
            metric, seed = place = min(lost, key=lambda place: (place not in other, place))  # a reason, if there is one
            status, error = other.get(place, _GONE)
            change = f"{status} → ok" if kind == "better" else f"ok → {status}{': ' + error if error else ''}"
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            reason = f"seed {seed}: {change}{more}"
            found.append(Difference(line=line, metric=metric, kind=kind, reason=reason))
    return found


def _statuses(rows: list[Row]) -> dict[tuple[str, int], tuple[str, str]]:
    return {
        (row["metric"], int(row["seed"])): (row["status"], row["error"]) for row in rows if row["aggregate"] == "seed"
    }


def _machines(rows: list[Row]) -> set[tuple[str, ...]]:
    return {tuple(row[name] for name in MACHINE) for row in rows if row["aggregate"] == "seed"}


def _of_numbers(line: tuple[str, ...], old: _Side, new: _Side, tolerances: Mapping[str, Tolerance]) -> list[Difference]:
    """At most one a metric, over the seeds that have a value on both sides."""
    found = []
    for metric in sorted({row["metric"] for row in old.rows}):
        before, after = old.seeds(metric), new.seeds(metric)
        pairs = [(before[seed], after[seed]) for seed in sorted(before) if seed in after]
        if not pairs:
            continue
        changed = _changed_conditions(line[0], pairs)
        if changed:
            found.append(_conditions(line, metric, changed))
            continue
        means = fmean(a["value"] for a, _ in pairs), fmean(b["value"] for _, b in pairs)
        if not _tolerance(metric, pairs[0][1]["unit"], tolerances).covers(*means):
            found.append(_judge(line, metric, means, old, new, pairs))
    return found


def _conditions(line: tuple[str, ...], metric: str, changed: str) -> Difference:
    return Difference(line=line, metric=metric, kind="conditions", reason=f"conditions changed: {changed}")


def _changed_conditions(track: str, pairs: list[tuple[Row, Row]]) -> str:
    """Names and values, ``torch 2.14 → 2.15``; empty when all are equal. What training made is its result."""
    names = [name for name in CONDITIONS if not (track == "training" and name == "weights_sha256")]
    if pairs[0][1]["unit"] in TIMED_UNITS:
        names += [name for name in MACHINE if name not in names]
    changes = {name: (a[name], b[name]) for name in names for a, b in pairs if a[name] != b[name]}
    return ", ".join(f"{name} {_short(was)} → {_short(now)}" for name, (was, now) in changes.items())


def _short(text: str) -> str:
    return (text[:12] if len(text) > 40 else text) or "none"


def _tolerance(metric: str, unit: str, tolerances: Mapping[str, Tolerance]) -> Tolerance:
    start = max((start for start in tolerances if start and metric.startswith(start)), key=len, default="")
    if not start and unit in ("fraction", *TIMED_UNITS):
        return _FRACTION if unit == "fraction" else _TIMED
    return tolerances.get(start, Tolerance())


def _judge(
    line: tuple[str, ...],
    metric: str,
    means: tuple[float, float],
    old: _Side,
    new: _Side,
    pairs: list[tuple[Row, Row]],
) -> Difference:
    ends = _paired_interval(old, new, pairs)
    clear = ends[0] > 0 or ends[1] < 0 if ends is not None else _apart(old.ends(metric), new.ends(metric))
    better = pairs[0][1]["higher_is_better"]
    kind: Kind = "unclear"
    if clear and better is not None and pairs[0][1]["unit"] not in TIMED_UNITS:
        kind = "better" if (means[1] > means[0]) == bool(better) else "worse"
    span = f"{ends[0]:+.4g} to {ends[1]:+.4g}" if ends is not None else "unpaired"
    return Difference(
        line=line,
        metric=metric,
        kind=kind,
        reason=f"{means[0]:.6g} → {means[1]:.6g} ({means[1] - means[0]:+.4g}, {span})",
        old=means[0],
        new=means[1],
        low=ends[0] if ends is not None else None,
        high=ends[1] if ends is not None else None,
        paired=ends is not None,
    )


def _paired_interval(old: _Side, new: _Side, pairs: list[tuple[Row, Row]]) -> tuple[float, float] | None:
    """Of new − old over the seeds that both have; None unless both have samples of one kind and size for all."""
    samples = []
    for before, after in pairs:
        a, b = old.sample(before), new.sample(after)
        if a is None or b is None or a.kind != b.kind or len(a.numbers) != len(b.numbers):
            return None
        samples.append((a, b))
    if {a.kind for a, _ in samples} == {"units"}:
        try:
            _, low, high = paired_difference([a.numbers for a, _ in samples], [b.numbers for _, b in samples])
        except ValueError:
            return None
        return low, high
    if len({(a.kind, len(a.numbers)) for a, _ in samples}) > 1:
        return None
    ends = interval(over_seeds(np.stack([b.numbers - a.numbers for a, b in samples])))
    return float(ends[0]), float(ends[1])


def _apart(old: tuple[float, float] | None, new: tuple[float, float] | None) -> bool:
    """Whether the two intervals do not overlap; stricter than a test of the difference."""
    return old is not None and new is not None and (old[1] < new[0] or new[1] < old[0])
