"""The pairs of rows that a suite's claims compare: values, difference and paired interval of each.

The difference is that of the two values, or with a control that of their two gaps to the control's value on the same
subject and condition. Only seeds, and within them units, that every row of a comparison has a value of are compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np

from bench.leaderboard.intervals import Interval, around, misses
from bench.leaderboard.lines import Line, Sample, Score, Sheet
from bench.leaderboard.statistics import LEVEL, Floats, interval, over_seeds, resampled_means
from bench.record import Claim, Reading, RowName

Row = dict[str, Any]
NAMES = ("subject", "condition", "method", "variant")  # of a row, besides its data set


@dataclass(frozen=True)
class Finding:
    """What the records answer to one comparison."""

    asked: "Comparison"
    difference: "Difference | None"  # None: ``asked.problem`` says why there is no value
    ends: Interval | None  # of the difference


def findings(sheet: Sheet) -> list[list[Finding]]:
    """Of every claim, in the order of the suite, its findings in the order of its metrics, then of its pairs."""
    lines = {  # the newest method version is last
        (line.key.group.track, name): line for line in sheet.lines for name in _names(line)
    }
    asked = [list(_comparisons(claim, sheet, lines)) for claim in sheet.index.claims]
    differences = [[None if one.problem else _difference(one) for one in of_claim] for of_claim in asked]
    ends = _intervals([found for of_claim in differences for found in of_claim if found is not None])
    return [
        [Finding(one, found, None if found is None else next(ends)) for one, found in zip(*both, strict=True)]
        for both in zip(asked, differences, strict=True)
    ]


# ---- what is compared ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Term:
    """One row that takes part, and its readings of the metric by seed: of the newest version."""

    name: RowName
    line: Line | None
    scores: Mapping[int, Score]

    @cached_property
    def valued(self) -> dict[int, Score]:
        return {seed: score for seed, score in self.scores.items() if score.value is not None}

    @property
    def planned(self) -> set[int]:
        return {cell.identity.seed for cell in self.line.planned} if self.line else set()

    def why_not(self, stem: str) -> str:
        """Why it cannot be compared at all; empty when it can."""
        if self.line is None or not self.line.records:
            return "no record"
        if self.line.is_doubtful:
            return "selftest failed"
        if any(record.provenance.get("source", "measured") != "measured" for record in self.line.records):
            return "not measured here"
        if self.valued:
            return ""
        every = [score for scores in self.line.scores.values() for score in scores]
        first = next(iter([*self.scores.values(), *(score for score in every if score.reading is None)]), None)
        if first is not None:
            return f"{first.status}: {first.error}" if first.error else first.status
        older = any(score.reading.stem == stem for score in every if score.reading is not None)
        return f"{stem} was measured in an older version" if older else f"{stem} was not measured"


@dataclass(frozen=True)
class Comparison:
    """One pair of rows under one metric: the two sides, then their two controls if there are any."""

    claim: Claim
    stem: str
    terms: Sequence[_Term]

    @cached_property
    def seeds(self) -> list[int]:
        """Those that every row has a value of."""
        return sorted(set.intersection(*(set(term.valued) for term in self.terms)))

    @cached_property
    def card(self) -> Reading | None:
        """Any reading of the metric: rows that are compared share its card."""
        readings = (score.reading for term in self.terms for score in term.scores.values())
        return next((reading for reading in readings if reading is not None), None)

    @cached_property
    def problem(self) -> str:
        """Why there is no value; empty when there is one."""
        for term in self.terms:
            why = term.why_not(self.stem)
            if why:
                return f"{_in_words(term.name)}: {why}"
        names = {score.metric for term in self.terms for score in term.valued.values()}
        if len(names) > 1:  # a metric's name holds its referee
            return f"judged by different referees: {', '.join(sorted(names))}"
        return "" if self.seeds else "no seed has a value in every row"


def _comparisons(claim: Claim, sheet: Sheet, lines: Mapping[tuple[str, RowName], Line]) -> Iterator[Comparison]:
    for stem, (of, against) in product(claim.metrics, claim.pairs):
        controls = [name.model_copy(update={"method": claim.control, "variant": "default"}) for name in (of, against)]
        names = [of, against, *(controls if claim.control is not None else ())]
        found = [lines.get((claim.track, name)) for name in names]
        terms = [_Term(name, line, _scores(sheet, line, stem)) for name, line in zip(names, found, strict=True)]
        yield Comparison(claim, stem, terms)


def _scores(sheet: Sheet, line: Line | None, stem: str) -> dict[int, Score]:
    if line is None:
        return {}
    newest = (
        scores
        for (metric, version), scores in line.scores.items()
        if (known := sheet.metrics.get((line.key.group.track, metric))) is not None and known.version == version
    )
    return {
        score.record.identity.seed: score
        for scores in newest
        for score in scores
        if score.reading is not None and score.reading.stem == stem
    }


def _names(line: Line) -> tuple[RowName, RowName]:
    """Its row with the data set, and without: an index from before there could be several names none."""
    group, key = line.key.group, line.key
    nameless = RowName(subject=group.subject, condition=group.condition, method=key.method, variant=key.variant)
    return nameless.model_copy(update={"dataset": group.dataset}), nameless


def _in_words(name: RowName) -> str:
    method = name.method if name.variant == "default" else f"{name.method} ({name.variant})"
    return " · ".join(filter(None, (name.subject, name.condition, method)))


# ---- the difference and its interval -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Values of both sides, and what the interval of their difference is drawn from, or why there is nothing."""

    by_seed: Floats  # (S, 2)
    columns: Sequence[Floats] = ()  # one a seed: differences of units, or of replicates
    kind: Literal["units", "replicates"] = "units"
    why_none: str = ""
    resample: str = ""  # what a unit is

    @property
    def of(self) -> float:
        """Mean over the seeds."""
        return float(self.by_seed.mean(axis=0)[0])

    @property
    def against(self) -> float:
        """The same of the other side."""
        return float(self.by_seed.mean(axis=0)[1])


def _difference(one: Comparison) -> Difference:
    scores = [[term.valued[seed] for term in one.terms] for seed in one.seeds]
    values = np.stack([_sides(np.array([score.value for score in of_seed])) for of_seed in scores])  # (S, 2)
    samples = [[score.sample for score in of_seed if score.sample is not None] for of_seed in scores]
    why = _why_unpaired(samples, len(one.terms))
    columns = []
    for place, of_seed in enumerate([] if why else samples):
        numbers = np.stack([sample.numbers for sample in of_seed])  # (2 or 4, n)
        absent = np.isnan(numbers)
        sides = _sides(np.where(absent.any(axis=0), np.nan, numbers))
        if np.isnan(sides).all():
            why = "no unit has a value in every row"
        elif (absent != absent[0]).any():  # then the values are those of the units that all rows have
            values[place] = np.nanmean(sides, axis=1)
        columns.append(sides[0] - sides[1])
    return Difference(
        by_seed=values,
        columns=() if why else columns,
        kind="units" if why else samples[0][0].kind,
        why_none=why,
        resample=one.card.resample if one.card else "",
    )


def _sides(numbers: Floats) -> Floats:
    """(2, …) stays; (4, …) → (2, …): each side less its control."""
    return numbers[:2] - numbers[2:] if len(numbers) == 4 else numbers


def _why_unpaired(samples: Sequence[Sequence[Sample]], rows: int) -> str:
    """Why unit cannot be compared with unit, or replicate with replicate; empty when it can."""
    if any(len(of_seed) < rows for of_seed in samples):
        return "nothing to draw anew"
    every = [sample for of_seed in samples for sample in of_seed]
    if len({sample.kind for sample in every}) > 1:
        return "units cannot be paired with replicates"
    # Units are averaged within their seed, replicates over the seeds.
    for together in [every] if every[0].kind == "replicates" else samples:
        counts = sorted({len(sample.numbers) for sample in together})
        if len(counts) > 1:
            return f"{' and '.join(map(str, counts))} {every[0].kind} cannot be paired"
        if counts[0] < 2:
            return f"one of the {every[0].kind} alone says nothing about spread"
    return ""


def _intervals(differences: Sequence[Difference]) -> Iterator[Interval | None]:
    """Of all at once: differences over as many units share their draws."""
    means = iter(resampled_means([column for one in differences if one.kind == "units" for column in one.columns]))
    for one in differences:
        replicates = [next(means) if one.kind == "units" else column for column in one.columns]
        yield _interval(one, replicates) if replicates else None


def _interval(one: Difference, replicates: list[Floats]) -> Interval:
    """Replicates of sets are moved onto the difference where they leave it out, as on the boards."""
    drawn = over_seeds(np.stack(replicates))
    centred = one.kind == "replicates" and misses(drawn, one.of - one.against)
    low, high = interval(around(drawn, one.of - one.against) if centred else drawn)
    seeds, moved = "seed" if len(replicates) > 1 else "", "centred" if centred else ""
    method = "_".join(filter(None, ("paired_bootstrap", one.resample, seeds, str(len(drawn)), moved)))
    return Interval(float(low), float(high), method)


# ---- columns of claims.csv -----------------------------------------------------------------------------------------


def asked_columns(one: Comparison) -> Row:
    """What is compared, and how its number is to be read."""
    claim, card = one.claim, one.card
    named = (term.line.key.group.dataset for term in one.terms if term.line is not None)
    sides = zip(("of", "against"), one.terms, strict=False)
    return {
        "claim": claim.claim,
        "source": claim.source,
        "track": claim.track,
        "metric": card.metric if card else one.stem,
        "metric_version": card.metric_version if card else None,
        "dataset": next(named, one.terms[0].name.dataset),
        **{f"{side}_{field}": getattr(term.name, field) for side, term in sides for field in NAMES},
        "control": claim.control,
        "unit": card.unit if card else None,
        "better": card.better if card else None,
    }


def number_columns(one: Finding) -> Row:
    """Values, difference and interval, or why there is none."""
    found, seeds = one.difference, one.asked.seeds
    if found is None:
        return {"reason": one.asked.problem}
    planned = len(set[int]().union(*(term.planned for term in one.asked.terms)))
    reasons = [f"{len(seeds)} of {planned} seeds have a value in every row"] if len(seeds) < planned else []
    ends: Row = {}
    if one.ends is None:
        reasons.append(f"no interval: {found.why_none}")
    else:
        ends = {"ci_low": one.ends.low, "ci_high": one.ends.high, "ci_level": LEVEL, "ci_method": one.ends.method}
    return {
        "of_value": found.of,
        "against_value": found.against,
        "difference": found.of - found.against,
        "n_seeds": len(seeds),
        "reason": "; ".join(reasons),
        **ends,
    }
