"""Means over seeds and their intervals, one metric of one track at a time: all its readings share their draws."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.leaderboard.lines import Key, Line, Score, Sheet
from bench.leaderboard.statistics import RESAMPLES, Floats, interval, over_seeds, resampled_means


class Interval(NamedTuple):
    """Two ends, and how they were found."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Summary:
    """One metric of one line, over those of its seeds that have a value."""

    scores: list[Score]  # of all seeds
    by_seed: list[Interval | None]  # one a score
    value: float | None
    std: float | None
    n_seeds: int
    interval: Interval | None
    replicates: Floats | None  # (R,), kept where the metric ranks the line


@dataclass(frozen=True)
class _Draws:
    """Replicates of a metric's scores, each (R,) or None, and what their intervals are called."""

    replicates: list[Floats | None]
    resamples: int
    centred: bool

    def interval(self, replicates: Floats, unit: str, seeds: int) -> Interval:
        """Of one seed or of the mean over several."""
        parts = ("bootstrap", unit, "seed" if seeds > 1 else "", str(self.resamples), "centred" if self.centred else "")
        low, high = interval(replicates)
        return Interval(float(low), float(high), "_".join(part for part in parts if part))


Summaries = dict[Key, dict[tuple[str, str], Summary]]


def summarise(sheet: Sheet, *, intervals: bool) -> Summaries:
    """Means and, unless told otherwise, intervals of all scores: line → (metric, version) → summary."""
    by_metric: dict[tuple[str, str, str], list[Line]] = {}
    for line in sheet.lines:
        for metric, version in line.scores:
            by_metric.setdefault((line.key.group.track, metric, version), []).append(line)
    found: Summaries = {line.key: {} for line in sheet.lines}
    for (_, metric, version), lines in by_metric.items():
        ranking = {line.key for line in lines if sheet.primary[line.key.group] == metric}
        for line, summary in _one_metric(lines, (metric, version), ranking, intervals):
            found[line.key][metric, version] = summary
    return found


def _one_metric(
    lines: list[Line], name: tuple[str, str], ranking: set[Key], intervals: bool
) -> Iterator[tuple[Line, Summary]]:
    scores = [score for line in lines for score in line.scores[name]]
    draws = _draw(scores) if intervals else _Draws([None] * len(scores), 0, centred=False)
    place = 0
    for line in lines:
        scores = line.scores[name]
        replicates = draws.replicates[place : place + len(scores)]
        place += len(scores)
        by_seed = [
            None if drawn is None else draws.interval(drawn, _unit(score), seeds=1)
            for score, drawn in zip(scores, replicates, strict=True)
        ]
        yield line, _over_seeds(scores, by_seed, replicates, draws, keep=line.key in ranking)


def _draw(scores: list[Score]) -> _Draws:
    """Replicates of each score; of two units at least, below that nothing can be said."""
    samples = [score.sample if score.sample is not None and len(score.sample.numbers) > 1 else None for score in scores]
    ready = [sample.numbers for sample in samples if sample is not None and sample.kind == "replicates"]
    resamples = min(map(len, ready), default=RESAMPLES)
    columns = [sample.numbers for sample in samples if sample is not None and sample.kind == "units"]
    means = iter(resampled_means(columns, resamples))
    found = [
        None if sample is None else next(means) if sample.kind == "units" else sample.numbers[:resamples]
        for sample in samples
    ]
    centred = any(
        sample is not None and sample.kind == "replicates" and score.value is not None and misses(drawn, score.value)
        for score, sample, drawn in zip(scores, samples, found, strict=True)
        if drawn is not None
    )
    if centred:
        found = [
            drawn if drawn is None or score.value is None else around(drawn, score.value)
            for score, drawn in zip(scores, found, strict=True)
        ]
    return _Draws(found, resamples, centred)


def misses(replicates: Floats, value: float) -> bool:
    """Whether the interval leaves out its own value.

    Some statistics of sets are biased under resampling: a set with repeated images is farther from any other in
    Fréchet distance, and less diverse. The metric's replicates are then moved onto its values, on the whole board.
    """
    low, high = interval(replicates)
    return bool(value < low or value > high)


def around(replicates: Floats, value: float) -> Floats:
    """The replicates moved so that their mean is the value."""
    moved: Floats = replicates + (value - np.nanmean(replicates))
    return moved


def _over_seeds(
    scores: list[Score], by_seed: list[Interval | None], replicates: list[Floats | None], draws: _Draws, *, keep: bool
) -> Summary:
    valued = [(score.value, drawn) for score, drawn in zip(scores, replicates, strict=True) if score.value is not None]
    if not valued:
        return Summary(scores, by_seed, None, None, 0, None, None)
    values = [value for value, _ in valued]
    drawn = _joint(valued, draws.resamples) if draws.resamples else None
    unit = next((_unit(score) for score, one in zip(scores, replicates, strict=True) if one is not None), "")
    return Summary(
        scores=scores,
        by_seed=by_seed,
        value=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        n_seeds=len(values),
        interval=None if drawn is None else draws.interval(drawn, unit, len(values)),
        replicates=drawn if keep else None,
    )


def _joint(valued: list[tuple[float, Floats | None]], resamples: int) -> Floats | None:
    """Replicates of the mean over seeds. A seed whose units cannot be drawn counts with its value alone."""
    if len(valued) == 1:
        return valued[0][1]
    return over_seeds(np.stack([np.full(resamples, value) if one is None else one for value, one in valued]))


def _unit(score: Score) -> str:
    return score.reading.resample if score.reading is not None else ""
