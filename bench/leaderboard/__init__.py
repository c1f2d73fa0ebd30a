"""Boards made from records alone: long and wide tables, intervals, ranks, tiers, and what changed between two.

``build`` reads a store, ``write`` and ``load_boards`` are its files, ``compare`` judges two of them. Nothing here
needs torch, and nothing asks the code of methods and metrics: records carry their cards.
"""

from bench.leaderboard.boards import Boards, assemble, build
from bench.leaderboard.changes import changes_between, load_changes, log_changes
from bench.leaderboard.compare import TOLERANCES, Difference, Tolerance, compare, worse
from bench.leaderboard.files import load_board, load_boards, load_claims, load_results, write
from bench.leaderboard.schema import BoardError
from bench.leaderboard.verdicts import VERDICTS

__all__ = [
    "TOLERANCES",
    "VERDICTS",
    "BoardError",
    "Boards",
    "Difference",
    "Tolerance",
    "assemble",
    "build",
    "changes_between",
    "compare",
    "load_board",
    "load_boards",
    "load_changes",
    "load_claims",
    "load_results",
    "log_changes",
    "worse",
    "write",
]
