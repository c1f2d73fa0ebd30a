"""Records sorted into the lines of a board: one line a (subject, condition, method, variant), over its seeds."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from bench.leaderboard.statistics import Floats
from bench.record import Identity, IndexedCell, Reading, Record, SuiteIndex

Arrays = Callable[[Record], Mapping[str, Floats]]


class Group(NamedTuple):
    """What is ranked together."""

    track: str
    dataset: str
    split: str
    subject: str
    condition: str


class Key(NamedTuple):
    """One line of a wide board."""

    group: Group
    method: str
    variant: str
    method_version: int

    @classmethod
    def of(cls, cell: Identity) -> "Key":
        """The line to which a cell belongs."""
        group = Group(cell.track, cell.dataset, cell.split, cell.subject, cell.condition)
        return cls(group, cell.method, cell.variant, cell.method_version)


@dataclass(frozen=True)
class Sample:
    """What a reading's interval comes from: values of units, to be drawn anew, or replicates that are ready."""

    kind: Literal["units", "replicates"]
    numbers: Floats


@dataclass(frozen=True)
class Score:
    """One metric of one cell; ``reading`` is None when the cell has no readings at all."""

    record: Record
    metric: str
    version: str
    reading: Reading | None
    sample: Sample | None = None

    @cached_property
    def value(self) -> float | None:
        """The number, or None: a number that is not finite is no value."""
        value = self.reading.value if self.reading is not None and self.reading.status == "ok" else None
        return value if value is not None and math.isfinite(value) else None

    @cached_property
    def status(self) -> str:
        """``ok`` only with a value."""
        if self.value is not None:
            return "ok"
        if self.reading is None:
            return self.record.status if self.record.status != "ok" else "undefined"
        return self.reading.status if self.reading.status != "ok" else "undefined"

    @cached_property
    def error(self) -> str:
        """Why there is no value, in one line of at most 200 characters."""
        if self.value is not None:
            return ""
        if self.reading is None:
            text = self.record.error or ("the cell has no readings" if self.record.status == "ok" else "")
        else:
            text = self.reading.error or "the value is not finite"
        return " ".join(text.strip().splitlines()[:1])[:200]


@dataclass
class Line:
    """The cells planned for one line, the records there are, and their scores."""

    key: Key
    planned: list[IndexedCell]
    records: list[Record] = field(default_factory=list)
    scores: dict[tuple[str, str], list[Score]] = field(default_factory=dict)  # (metric, version) → seeds in order

    @property
    def is_reference(self) -> bool:
        """Whether the line shows real images."""
        return any(cell.is_reference for cell in self.planned)

    @property
    def n_ok(self) -> int:
        """How many of its cells ended well."""
        return sum(record.status == "ok" for record in self.records)

    @property
    def is_complete(self) -> bool:
        """Whether all planned cells ended well."""
        return self.n_ok == len(self.planned)

    @property
    def is_doubtful(self) -> bool:
        """Whether any of it was measured while the selftest failed."""
        return any(record.readings and record.provenance.get("selftest") == "fail" for record in self.records)


@dataclass(frozen=True)
class Metric:
    """What the board says of one metric of one track: the newest version's card."""

    name: str
    version: str
    card: Reading


@dataclass(frozen=True)
class Sheet:
    """All lines of a board, sorted, and the metrics found in them."""

    index: SuiteIndex
    lines: list[Line]
    metrics: Mapping[tuple[str, str], Metric]  # (track, metric)
    primary: Mapping[Group, str]  # the metric that ranks the group; the bare stem when nobody measured it


def gather(index: SuiteIndex, records: Iterable[Record], arrays: Arrays) -> Sheet:
    """Sort records into lines. The order in which they come does not matter.

    Args:
        arrays: gives the values that a record's readings name; an empty mapping for boards without intervals.
    """
    lines: dict[Key, Line] = {}
    for cell in index.cells:
        lines.setdefault(Key.of(cell.identity), Line(Key.of(cell.identity), [])).planned.append(cell)
    for record in sorted(records, key=lambda record: (record.identity.seed, record.key)):
        lines[Key.of(record.identity)].records.append(record)
    ordered = [lines[key] for key in sorted(lines)]
    metrics = _metrics(ordered)
    primary = _primary(index, ordered)
    for line in ordered:
        _score(line, primary[line.key.group], metrics, arrays)
    return Sheet(index, ordered, metrics, primary)


def _metrics(lines: list[Line]) -> dict[tuple[str, str], Metric]:
    newest: dict[tuple[str, str], Metric] = {}
    for line in lines:
        for record in line.records:
            for reading in record.readings:
                place = (line.key.group.track, reading.metric)
                if place not in newest or reading.metric_version > newest[place].card.metric_version:
                    newest[place] = Metric(reading.metric, str(reading.metric_version), reading)
    return newest


def _primary(index: SuiteIndex, lines: list[Line]) -> dict[Group, str]:
    """The stem may stand for a longer name (with the referee in it): taken from the nearest reading that has it."""
    seen: dict[tuple[str, ...], str] = {}
    for line in lines:
        group, stem = line.key.group, index.primary.get(line.key.group.track)
        names = [reading.metric for record in line.records for reading in record.readings if reading.stem == stem]
        for name in sorted(names):
            for depth in range(1, len(group) + 1):
                seen.setdefault(group[:depth], name)
    found = {}
    for line in lines:
        group = line.key.group
        near = (seen[group[:depth]] for depth in range(len(group), 0, -1) if group[:depth] in seen)
        found[group] = next(near, index.primary.get(group.track, ""))
    return found


def _score(line: Line, primary: str, metrics: Mapping[tuple[str, str], Metric], arrays: Arrays) -> None:
    """Fill ``line.scores``. A cell without readings counts under the primary metric, so that it stays visible."""
    for record in line.records:
        if record.status != "ok" or not record.readings:
            known = metrics.get((line.key.group.track, primary))
            version = known.version if known else ""
            line.scores.setdefault((primary, version), []).append(Score(record, primary, version, None))
            continue
        numbers = arrays(record)
        for reading in record.readings:
            version = str(reading.metric_version)
            score = Score(record, reading.metric, version, reading, _sample(reading, numbers))
            line.scores.setdefault((reading.metric, version), []).append(score)


def _sample(reading: Reading, numbers: Mapping[str, Floats]) -> Sample | None:
    if reading.resample == "none" or reading.status != "ok":
        return None
    if reading.values is not None and reading.values in numbers:
        return Sample("units", numbers[reading.values])
    if reading.replicates is not None and reading.replicates in numbers:
        return Sample("replicates", numbers[reading.replicates])
    return None


def samples_of(record: Record, numbers: Mapping[str, Floats]) -> dict[str, Sample]:
    """The samples of a record's readings by metric."""
    found = {reading.metric: _sample(reading, numbers) for reading in record.readings}
    return {metric: sample for metric, sample in found.items() if sample is not None}
