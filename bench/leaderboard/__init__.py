"""Boards made from records alone: long and wide tables, intervals, ranks, tiers, and what changed between two.

``build`` reads a store, ``write`` and ``load_boards`` are its files, ``compare`` judges two of them, ``freeze`` makes a
release. Nothing here needs torch, and nothing asks the code of methods and metrics: records carry their cards.
"""

from bench.leaderboard.boards import Boards, assemble, build
from bench.leaderboard.changes import changes_between, load_changes, log_changes
from bench.leaderboard.compare import (
    TOLERANCES,
    Comparison,
    Difference,
    Tolerance,
    boards_in_both,
    compare,
    worse,
)
from bench.leaderboard.files import folders_of, load_board, load_boards, load_claims, load_results, write
from bench.leaderboard.nightly import Judgement
from bench.leaderboard.release import Release, check_released, freeze, last_release, open_release
from bench.leaderboard.schema import PLACE, BoardError
from bench.leaderboard.settings import row_settings
from bench.leaderboard.verdicts import VERDICTS

__all__ = [
    "PLACE",
    "TOLERANCES",
    "VERDICTS",
    "BoardError",
    "Boards",
    "Comparison",
    "Difference",
    "Judgement",
    "Release",
    "Tolerance",
    "assemble",
    "boards_in_both",
    "build",
    "changes_between",
    "check_released",
    "compare",
    "folders_of",
    "freeze",
    "last_release",
    "load_board",
    "load_boards",
    "load_changes",
    "load_claims",
    "load_results",
    "log_changes",
    "open_release",
    "row_settings",
    "worse",
    "write",
]
