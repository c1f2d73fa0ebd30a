"""What one board says, row by row: the numbers behind the page of a track and behind its data file."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from bench.leaderboard import PLACE, Boards
from bench.report.view import GAP, failures, ranked_by, warnings

NAME = (*PLACE, "method", "variant")

# Shown beside the metric that ranks, in this order and as far as the board has them; all others stand behind the row.
HEADLINES: Mapping[str, tuple[str, ...]] = {
    "training": ("top5", "nll", "ece_15", "gmacs", "latency_ms"),
    "reconstruction": ("psnr", "lpips_alex", "rmse", "feature_error"),
    "inversion": ("inversion_accuracy", "same_class_rmse_ratio", "vendi_referee_cosine", "coverage"),
    "visualization": ("kernel_referee_penultimate", "referee_top1", "activation_ratio", "vendi_referee_cosine"),
    "adversarial": ("robust_accuracy", "l2_size", "linf_size", "transfer_rate"),
    "detection": ("aupr", "tpr_at_5fpr", "auroc_against_noise"),
    "attribution": ("deletion_auc_blur", "randomisation_rank_correlation", "gini_sparsity"),
}
REAL = "real"
SHOWN = 3  # headline metrics in the table


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value and its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method (and variant) on one data set, subject and condition."""

    id: str  # the same as long as its names are: links to it stay good
    name: Mapping[str, str]  # dataset, subject, condition, method, variant
    rank: int | None
    rank_low: int | None
    rank_high: int | None
    tier: int | None
    reason: str  # why it has no rank
    is_reference: bool
    gate_overridden: bool
    primary: str
    numbers: Mapping[str, Number]
    n_ok: int
    n_cells: int
    wall_s: float | None
    failed: tuple[str, ...]  # one line a cell without a result

    @property
    def method(self) -> str:
        """The method, with its variant where that says something."""
        variant = self.name["variant"]
        return self.name["method"] + ("" if variant in ("", "default") else f" ({variant})")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are ranked against each other."""

    title: str
    primary: str
    better: str
    lead: str  # who is best, and whether that is certain
    short: str  # the same in a word or two
    best: Row | None
    rows: tuple[Row, ...]

    @property
    def is_real(self) -> bool:
        """Whether the lead is."""
        return self.short == REAL


@dataclass(frozen=True, kw_only=True)
class Track:
    """One track of a board."""

    name: str
    summary: str
    primary: str  # what ranks, by its family's name where groups differ
    metrics: Mapping[str, Mapping[str, Any]]  # name → card
    headlines: tuple[str, ...]
    columns: tuple[str, ...]  # of data set, subject, condition: those in which rows differ
    common: str  # what all rows share of them
    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    failures: tuple[str, ...]
    comparisons: int

    @property
    def rows(self) -> list[Row]:
        """All of them, group by group, in the order of the board."""
        return [row for group in self.groups for row in group.rows]

    @property
    def leader(self) -> str:
        """Who is most often alone at the top of a group."""
        tops = [[row.method for row in group.rows if row.rank == 1] for group in self.groups]
        firsts = Counter(top[0] for top in tops if len(top) == 1)
        if not firsts:
            return "nobody alone"
        method, count = firsts.most_common(1)[0]
        return method if len(self.groups) == 1 else f"{method} in {count} of {len(self.groups)}"

    def choices(self, column: str) -> list[str]:
        """What a reader can filter a column by."""
        return sorted({row.name[column] for row in self.rows})

    @property
    def scale(self) -> tuple[float, float]:
        """Where the bars of its metric begin, and how far they reach."""
        shown = [number for row in self.rows if (number := row.numbers.get(row.primary)) is not None]
        ends = [end for one in shown for end in (one.value, one.low, one.high) if end is not None]
        return (min(ends), max(ends) - min(ends) or 1.0) if ends else (0.0, 1.0)

    @property
    def tiers(self) -> list[int]:
        """Those that some row is in."""
        return sorted({row.tier for row in self.rows if row.tier is not None})


def tracks_of(boards: Boards) -> list[Track]:
    """All tracks of a board, by name."""
    return [_track(name, frame, boards.sidecars[name]) for name, frame in boards.wide.items()]


def decimals(track: Track, metric: str) -> int:
    """Digits after the point that its numbers are shown with."""
    return int(track.metrics[metric].get("decimals", 4)) if metric in track.metrics else 4


def text(number: float | None, digits: int) -> str:
    """A number as the boards write it."""
    return GAP if number is None else f"{number:.{digits}f}"


def with_interval(number: Number | None, digits: int) -> str:
    """The same with its interval."""
    if number is None:
        return GAP
    if number.low is None:
        return text(number.value, digits)
    return f"{text(number.value, digits)} [{text(number.low, digits)}, {text(number.high, digits)}]"


def _track(name: str, frame: pd.DataFrame, sidecar: Mapping[str, Any]) -> Track:
    metrics = {metric["metric"]: metric for metric in sidecar["metrics"]}
    described = {tuple(group[key] for key in PLACE): group for group in sidecar["groups"]}
    read = _Reader(name, sidecar, metrics)
    groups = [
        _group(described[place], [read.row(line, described[place]["primary"]) for line in lines], metrics)
        for place, lines in groupby(frame.to_dict("records"), key=lambda line: tuple(line[key] for key in PLACE))
    ]
    rows = [row for group in groups for row in group.rows]
    differ = tuple(key for key in PLACE if len({row.name[key] for row in rows}) > 1)
    primaries = sorted({group.primary for group in groups})
    return Track(
        name=name,
        summary=f"Ranked by {ranked_by(sidecar, frame)}",
        primary=primaries[0] if len(primaries) == 1 else sidecar["primary"],
        metrics=metrics,
        headlines=tuple(_headlines(name, metrics, primaries)),
        columns=differ,
        common=" · ".join(rows[0].name[key] for key in PLACE if key not in differ and rows[0].name[key]),
        groups=tuple(groups),
        notes=tuple(sidecar.get("notes", ())),
        warnings=tuple(warnings(sidecar)),
        failures=tuple(failures(sidecar)),
        comparisons=sidecar["comparisons"],
    )


def _headlines(track: str, metrics: Mapping[str, Mapping[str, Any]], primaries: Iterable[str]) -> list[str]:
    """Metrics shown in the table: those a track is known by, then others by name."""
    left = {name: card.get("stem", name) for name, card in metrics.items() if name not in primaries}
    known = [name for stem in HEADLINES.get(track, ()) for name, of in left.items() if of == stem]
    return [*known, *(name for name in left if name not in known)][:SHOWN]


class _Reader:
    """Reads lines of a wide board with what its sidecar says about them."""

    def __init__(self, track: str, sidecar: Mapping[str, Any], metrics: Iterable[str]) -> None:
        self._track, self._metrics = track, list(metrics)
        self._reasons = {_names(row): row["reason"] for row in sidecar["unranked"]}
        self._references = {_names(row) for row in sidecar["reference_rows"]}
        self._overridden = set(sidecar["gate_overridden"])
        self._failed: dict[tuple[str, ...], list[str]] = {}
        for cell in sidecar["not_ok"]:
            why = cell["status"] + (f": {cell['error']}" if cell["error"] else "")
            self._failed.setdefault(_names(cell), []).append(f"seed {cell['seed']}: {why}")
        for cell in sidecar["missing"]:
            self._failed.setdefault(_names(cell), []).append(f"seed {cell['seed']}: not run yet")

    def row(self, line: Mapping[Any, Any], primary: str) -> Row:
        names = _names(line)
        identity = "\0".join((self._track, *names, str(line["method_version"])))
        return Row(
            id=f"r{hashlib.sha256(identity.encode()).hexdigest()[:9]}",
            name=dict(zip(NAME, names, strict=True)),
            **{key: _whole(line[key]) for key in ("rank", "rank_low", "rank_high", "tier")},
            reason=self._reasons.get(names, ""),
            is_reference=names in self._references,
            gate_overridden=line["subject"] in self._overridden,
            primary=primary,
            numbers={metric: found for metric in self._metrics if (found := _number(line, metric)) is not None},
            n_ok=int(line["n_ok"]),
            n_cells=int(line["n_cells"]),
            wall_s=_float(line["wall_s"]),
            failed=tuple(self._failed.get(names, ())),
        )


def _group(described: Mapping[str, Any], rows: list[Row], metrics: Mapping[str, Mapping[str, Any]]) -> Group:
    primary = described["primary"]
    digits = int(metrics[primary].get("decimals", 4)) if primary in metrics else 4
    lead, short = lead_of(rows, primary, digits)
    return Group(
        title=" · ".join(described[key] for key in PLACE if described[key]) or "all rows",
        primary=primary,
        better=described["better"],
        lead=lead,
        short=short,
        best=next((row for row in rows if row.rank == 1), None),
        rows=tuple(rows),
    )


def lead_of(rows: Iterable[Row], primary: str, digits: int) -> tuple[str, str]:
    """Who is best of rows that are ranked together, and whether the lead is real: as a sentence, and in short.

    It is real where tier 1 holds no other row and its rank interval is 1–1; narrow where drawing images and seeds for
    all rows together keeps it first, and only the intervals of single rows overlap.
    """
    ranked = sorted((row for row in rows if row.rank is not None), key=lambda row: row.rank or 0)
    if not ranked:
        return "No row is ranked.", "no row is ranked"
    best, shared = ranked[0], sum(row.tier == 1 for row in ranked)
    if len(tied := [row.method for row in ranked if row.rank == 1]) > 1:
        value = text(best.numbers[primary].value, digits)
        return f"Nobody leads: {', '.join(tied)} tie at {value}.", f"tie of {len(tied)} rows"
    said = f"{best.method} is first with {with_interval(best.numbers.get(primary), digits)}"
    if len(ranked) == 1:
        return f"{said}: the only ranked row, nothing to lead.", "the only ranked row"
    if best.tier is None:
        return f"{said}; without intervals nobody can say whether the lead is real.", "no intervals"
    is_first = (best.rank_low, best.rank_high) == (1, 1) and sum(row.rank == 1 for row in ranked) == 1
    if shared > 1 and is_first:
        return (
            f"{said}. The lead is narrow: drawn together with its rivals it stays first (rank interval 1–1), but the"
            f" intervals of the {shared} rows of tier 1 overlap.",
            "narrow",
        )
    if shared > 1:
        return (
            f"{said}, but tier 1 is shared by {shared} rows: they cannot be told apart at 95 %.",
            f"shared by {shared} rows",
        )
    if not is_first:
        between = f"rank interval {best.rank_low}–{best.rank_high}"
        return f"{said}, but with {between}: the lead is not certain.", between
    return f"{said}. The lead is real: it is alone in tier 1, and its rank interval is 1–1.", REAL


def _names(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in NAME)


def _number(line: Mapping[Any, Any], metric: str) -> Number | None:
    value = _float(line[metric])
    if value is None:
        return None
    return Number(value=value, low=_float(line[f"{metric}_ci_low"]), high=_float(line[f"{metric}_ci_high"]))


def _float(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
