"""From records to boards: a pure function, so that old records give the same tables again."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from bench.leaderboard.claims import claims_frame
from bench.leaderboard.curves import curves_frame
from bench.leaderboard.intervals import summarise
from bench.leaderboard.lines import Arrays, Sample, gather, samples_of
from bench.leaderboard.long import long_frame
from bench.leaderboard.paths import paths_frame
from bench.leaderboard.wide import sidecar, wide_frame
from bench.record import Problem, Record, Store, SuiteIndex

Samples = Callable[[str], Mapping[str, Sample]]


@dataclass(frozen=True, kw_only=True)
class Boards:
    """All tables of one board.

    Args:
        long: the rows of ``results.csv``.
        wide: track → its board, numbers in full.
        sidecars: track → what a reader of that board has to know; ready for JSON.
        claims: the rows of ``claims.csv``; None where the suite claims nothing.
        paths: the rows of ``paths.csv``; None where no network has gates.
        curves: the rows of ``curves.csv``; None where no attribution cell has curves.
        samples: key of a cell → metric → per-unit values or replicates; empty where they are not at hand.
    """

    board: str
    long: pd.DataFrame
    wide: Mapping[str, pd.DataFrame]
    sidecars: Mapping[str, Mapping[str, Any]]
    claims: pd.DataFrame | None = None
    paths: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    samples: Samples = field(default=lambda cell: {}, repr=False)


def build(store: Store, board: str, *, intervals: bool = True) -> Boards:
    """The boards of a suite from the records in a store.

    Args:
        intervals: False leaves out intervals, rank intervals and tiers, and reads no per-image values.

    Raises:
        KeyError: the store has no such board.
        StoreError: its index cannot be read.
        BoardError: records contradict each other.
    """
    index = store.read_index(board)
    records, problems = store.records(index)
    arrays: Arrays = store.values if intervals else lambda record: {}
    boards = assemble(index, records, arrays, problems, intervals=intervals)
    known = {record.key: record for record in records}
    return replace(
        boards, samples=lambda cell: samples_of(known[cell], store.values(known[cell])) if cell in known else {}
    )


def assemble(
    index: SuiteIndex,
    records: Iterable[Record],
    arrays: Arrays,
    problems: Iterable[Problem] = (),
    *,
    intervals: bool = True,
) -> Boards:
    """The same from records in memory. The order in which they come does not matter.

    Args:
        arrays: gives the values that a record's readings name, each (n,) float64.
    """
    sheet = gather(index, records, arrays)
    summaries = summarise(sheet, intervals=intervals)
    tracks = sorted({line.key.group.track for line in sheet.lines})
    track_of = {cell.key: cell.identity.track for cell in index.cells}
    found = list(problems)
    return Boards(
        board=index.board,
        long=long_frame(sheet, summaries),
        wide={track: wide_frame(sheet, track, summaries) for track in tracks},
        sidecars={
            track: sidecar(sheet, track, summaries, [one for one in found if track_of.get(one.key) == track])
            for track in tracks
        },
        claims=claims_frame(sheet),
        paths=paths_frame(sheet),
        curves=curves_frame(sheet),
    )
