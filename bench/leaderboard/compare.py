"""What changed between two boards, and whether it counts: conditions first, then size, then an interval."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np

from bench.leaderboard.boards import Boards, Samples
from bench.leaderboard.files import folders_of, is_board, load_boards
from bench.leaderboard.lines import Sample
from bench.leaderboard.schema import TIMED_UNITS, BoardError
from bench.leaderboard.statistics import DRAW_SEED, interval, over_seeds, paired_difference
from bench.record import Store

Kind = Literal["worse", "better", "unclear", "conditions", "added"]

LINE = ["track", "dataset", "split", "subject", "condition", "method", "variant"]
PROTOCOL = ("suite_version", "protocol", "profile")
# Numbers made under different ones of these are not compared.
CONDITIONS = (
    *("metric_version", "method_version", "weights_sha256", "data_sha256"),
    *("precision", "gpu_name", "torch"),
)
# What has a timed unit is compared on one machine alone, loosely, and is never an alarm: nothing is paired in it, and a
# machine that was busy looks like a slower method.
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


_FRECHET = Tolerance(absolute=0.05, relative=0.01)
# By unit; starting points, to be moved when nightly runs show their spread.
TOLERANCES: Mapping[str, Tolerance] = {
    "fraction": Tolerance(absolute=1e-3),  # 0.1 points of accuracy
    "fid": _FRECHET,
    "squared feature distance": _FRECHET,
    "lpips": Tolerance(absolute=1e-3),
    "ssim": Tolerance(absolute=1e-3),
    **dict.fromkeys(TIMED_UNITS, Tolerance(relative=0.1)),
}
_OTHERS = Tolerance(relative=1e-3)


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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is not as it was on one board, and how its numbers were compared.

    Args:
        differences: in the order of the board.
        paired: how many numbers, means over seeds, were compared unit by unit.
        unpaired: how many were not, though each cell has an interval.
        single: how many are one number a cell, without units that could be paired.
    """

    board: str
    differences: Sequence[Difference]
    paired: int = 0
    unpaired: int = 0
    single: int = 0


def compare(
    old: Boards, new: Boards, tolerances: Mapping[str, Tolerance] = TOLERANCES, seed: int = DRAW_SEED
) -> Comparison:
    """Differences of the lines of ``new`` from those of ``old``; equal ones are left out.

    A cell that was ok and is not, or is missing, is worse. A number counts when its tolerance is exceeded and, unit
    by unit where both boards have their samples, the interval of the difference excludes 0; without samples the two
    intervals of the tables must not overlap, and the difference is not ``paired``. What a clock gave is ``unclear`` at
    most. Boards of another protocol or profile are not compared, nor numbers of another metric or method version, or
    made under other conditions.

    Args:
        tolerances: by unit; a unit without an entry is allowed a thousandth of the old value.
        seed: of the bootstrap.
    """
    was, now = _protocol(old), _protocol(new)
    changed = ", ".join(f"{name} {was[name]} → {now[name]}" for name in was if name in now and was[name] != now[name])
    if changed:
        return Comparison(board=new.board, differences=[_conditions((), "", changed)])
    before, after = _lines(old), _lines(new)
    samples = [lru_cache(maxsize=16)(boards.samples) for boards in (old, new)]  # one line's cells are asked for often
    found: list[Difference] = []
    ways: Counter[str] = Counter()
    for line, rows in before.items():
        if line not in after:
            found.append(Difference(line=line, metric="", kind="worse", reason="missing"))
            continue
        found += _of_status(line, rows, after[line])
        sides = _Side(rows, samples[0]), _Side(after[line], samples[1])
        found += _of_numbers(line, *sides, tolerances, seed, ways)
    found += [
        Difference(line=line, metric="", kind="added", reason="not there before")
        for line in after
        if line not in before
    ]
    return Comparison(board=new.board, differences=found, **ways)


def boards_in_both(old: Path, new: Path, store: Store | None = None) -> tuple[list[tuple[Boards, Boards]], list[str]]:
    """The boards of two folders, each of one board or of several (``leaderboards``, a release), in pairs by name.

    Args:
        store: see ``load_boards``.

    Returns:
        the pairs, and a line for every board that has no partner.

    Raises:
        BoardError: a folder holds no board, no board is in both, or one cannot be read.
    """
    before, after = folders_of(old), folders_of(new)
    if is_board(old) and is_board(new):  # asked for by name, so they need not share one
        pairs = [(old, new)]
    else:
        pairs = [(before[name], after[name]) for name in before if name in after]
    if not pairs:
        raise BoardError(
            f"no board is in both: {old} has {', '.join(before)}, {new} has {', '.join(after)}",
            "name two folders of one board",
        )
    alone = []
    if not is_board(old) and not is_board(new):
        alone = [f"{name} is in {old} only" for name in before if name not in after]
        alone += [f"{name} is in {new} only" for name in after if name not in before]
    return [(load_boards(a, store), load_boards(b, store)) for a, b in pairs], alone


def worse(differences: Sequence[Difference]) -> list[Difference]:
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
    """The rows of one line, and where its cells' samples are found."""

    rows: list[Row]
    samples: Samples

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
        return self.samples(row["cell_id"]).get(row["metric"])


def _protocol(boards: Boards) -> dict[str, str]:
    """What all numbers of a board were made under, as far as it has any."""
    said: dict[str, set[str]] = {}
    for sidecar in boards.sidecars.values():
        for name in PROTOCOL:
            said.setdefault(name, set()).add(str(sidecar.get(name, "none")))
    return {name: ", ".join(sorted(values)) for name, values in said.items()}


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


def _of_numbers(
    line: tuple[str, ...],
    old: _Side,
    new: _Side,
    tolerances: Mapping[str, Tolerance],
    seed: int,
    ways: Counter[str],
) -> list[Difference]:
    """At most one a metric, over the seeds that have a value on both sides; counts how they were compared."""
    found = []
    for metric in sorted({row["metric"] for row in old.rows}):
        before, after = old.seeds(metric), new.seeds(metric)
        rows = [(before[seed], after[seed]) for seed in sorted(before) if seed in after]
        if not rows:
            continue
        changed = _changed_conditions(line[0], rows)
        if changed:
            found.append(_conditions(line, metric, changed))
            continue
        pairs = _pairs(old, new, rows)
        ends = old.ends(metric), new.ends(metric)
        has_units = any(not math.isnan(row["ci_low"]) for both in rows for row in both)
        ways["paired" if pairs else "unpaired" if has_units else "single"] += 1
        means = fmean(a["value"] for a, _ in rows), fmean(b["value"] for _, b in rows)
        if not tolerances.get(rows[0][1]["unit"], _OTHERS).covers(*means):
            paired = _interval_of(pairs, seed) if pairs else None
            found.append(_judge(line, metric, means, rows[0][1], paired, ends))
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


def _judge(
    line: tuple[str, ...],
    metric: str,
    means: tuple[float, float],
    row: Row,
    paired: tuple[float, float] | None,
    ends: tuple[tuple[float, float] | None, tuple[float, float] | None],
) -> Difference:
    """Of a difference that its tolerance does not cover.

    Args:
        row: one of the new ones, for what they share.
        paired: interval of the difference, unit by unit.
        ends: intervals of the tables.
    """
    clear = _apart(*ends) if paired is None else paired[0] > 0 if means[1] > means[0] else paired[1] < 0
    better = row["higher_is_better"]
    kind: Kind = "unclear"
    if clear and better is not None and row["unit"] not in TIMED_UNITS:
        kind = "better" if (means[1] > means[0]) == bool(better) else "worse"
    span = f"{paired[0]:+.4g} to {paired[1]:+.4g}" if paired is not None else "unpaired"
    return Difference(
        line=line,
        metric=metric,
        kind=kind,
        reason=f"{means[0]:.6g} → {means[1]:.6g} ({means[1] - means[0]:+.4g}, {span})",
        old=means[0],
        new=means[1],
        low=paired[0] if paired is not None else None,
        high=paired[1] if paired is not None else None,
        paired=paired is not None,
    )


def _pairs(old: _Side, new: _Side, rows: list[tuple[Row, Row]]) -> list[tuple[Sample, Sample]]:
    """Both samples of each seed; empty unless all are of one kind, and each pair of one size, two units at least."""
    pairs = []
    for before, after in rows:
        a, b = old.sample(before), new.sample(after)
        if a is None or b is None or a.kind != b.kind or len(a.numbers) != len(b.numbers):
            return []
        if np.count_nonzero(~np.isnan(b.numbers - a.numbers)) < 2:  # one unit drawn anew never varies
            return []
        pairs.append((a, b))
    sizes = {len(a.numbers) for a, _ in pairs if a.kind == "replicates"}
    return pairs if len({a.kind for a, _ in pairs}) == 1 and len(sizes) <= 1 else []


def _interval_of(pairs: list[tuple[Sample, Sample]], seed: int) -> tuple[float, float]:
    """Of new − old."""
    if pairs[0][0].kind == "units":
        _, low, high = paired_difference([a.numbers for a, _ in pairs], [b.numbers for _, b in pairs], seed=seed)
        return low, high
    ends = interval(over_seeds(np.stack([b.numbers - a.numbers for a, b in pairs]), seed))
    return float(ends[0]), float(ends[1])


def _apart(old: tuple[float, float] | None, new: tuple[float, float] | None) -> bool:
    """Whether the two intervals do not overlap; stricter than a test of the difference."""
    return old is not None and new is not None and (old[1] < new[0] or new[1] < old[0])
