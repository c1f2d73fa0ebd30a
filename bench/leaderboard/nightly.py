"""What a night's run says beside the last release: which differences are news, and which raise an alarm.

An alarm is raised for a cell that was ok and is not, or is missing, and for a number that moved to the worse beyond its
tolerance, unit by unit, in the run and in a rerun of its cells. One alarm a line: a broken method moves many metrics.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.leaderboard.boards import Boards
from bench.leaderboard.compare import LINE, Comparison, Difference, worse
from bench.leaderboard.files import to_json
from bench.leaderboard.release import Release
from bench.record import write_atomic

REPORT_FILE, SCHEMA = "report.json", 1
NO_FAILURE = ("ok", "skipped", "unsupported", "undefined")  # statuses of a run that ends with 0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One board of a night.

    Args:
        comparison: with the release, of what was published last, a rerun included.
        alarms: at most one a line.
        not_confirmed: numbers that were worse at first, and in the rerun were not.
    """

    comparison: Comparison
    alarms: Sequence[Difference]
    not_confirmed: Sequence[Difference]


def suspects(comparison: Comparison) -> list[Difference]:
    """Numbers that raise an alarm if a rerun agrees. An unpaired difference never does."""
    return [one for one in comparison.differences if one.kind == "worse" and one.paired]


def cells_of(boards: Boards, differences: Sequence[Difference]) -> list[str]:
    """Keys of the cells that the differing numbers were measured in, sorted."""
    wanted = {(*one.line, one.metric) for one in differences}
    frame = boards.long[(boards.long["aggregate"] == "seed") & (boards.long["status"] == "ok")]
    places = zip(*(frame[name] for name in (*LINE, "metric")), strict=True)
    return sorted({str(cell) for cell, place in zip(frame["cell_id"], places, strict=True) if place in wanted})


def judge(first: Comparison, rerun: Comparison | None = None) -> Judgement:
    """The alarms of a board.

    Args:
        rerun: the same comparison after the cells of the suspects were run again; None where there was no suspect.
    """
    last = rerun or first
    agreed = {(one.line, one.metric): one for one in suspects(last)}
    confirmed = [agreed[one.line, one.metric] for one in suspects(first) if (one.line, one.metric) in agreed]
    lost = [one for one in last.differences if one.kind == "worse" and one.old is None]
    return Judgement(
        comparison=last,
        alarms=worse([*lost, *confirmed]),
        not_confirmed=[one for one in suspects(first) if (one.line, one.metric) not in agreed],
    )


def known_failures(old: Boards, new: Boards) -> bool:
    """Whether cells failed on the new board, and all of them stand on the old one, so that the alarms judge them."""
    failed = _places(new) - _places(new, NO_FAILURE)
    return bool(failed) and failed <= _places(old)


def _places(boards: Boards, statuses: Collection[str] = ()) -> set[tuple[Any, ...]]:
    """Line, metric and seed of the rows with one of these statuses; of all rows when there are none."""
    frame = boards.long[boards.long["aggregate"] == "seed"]
    frame = frame[frame["status"].isin(list(statuses))] if statuses else frame
    return set(zip(*(frame[name] for name in (*LINE, "metric", "seed")), strict=True))


def write_report(
    folder: Path, judgements: Sequence[Judgement], last: Release, *, date: str, profile: str, exit_status: int
) -> Path:
    """``report.json``: what was compared with what, every alarm, and everything else that is not as it was.

    Args:
        last: the release.
        date: ISO 8601, from the caller.
    """
    boards = {one.comparison.board: _report(one) for one in judgements}
    content = {
        "schema": SCHEMA,
        "date": date,
        "profile": profile,
        "release": last.version,
        "alarms": sum(len(one.alarms) for one in judgements),
        "exit_status": exit_status,
        "boards": boards,
        "boards of the release that were not run": [board for board in last.boards if board not in boards],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / REPORT_FILE, to_json(content))
    return folder / REPORT_FILE


def _report(judgement: Judgement) -> dict[str, Any]:
    found = judgement.comparison
    return {
        "numbers": {"paired": found.paired, "unpaired": found.unpaired, "without units": found.single},
        "alarms": [_said(one) for one in judgement.alarms],
        "not confirmed by a rerun": [_said(one) for one in judgement.not_confirmed],
        **{
            kind: [_said(one) for one in found.differences if one.kind == kind]
            for kind in ("worse", "better", "unclear", "added")
        },
        "conditions": dict(Counter(one.reason for one in found.differences if one.kind == "conditions")),
    }


def _said(one: Difference) -> dict[str, Any]:
    facts = asdict(one)
    return dict(zip(LINE, facts.pop("line"), strict=False)) | facts
