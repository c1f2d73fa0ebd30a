"""What held, paper by paper: every claim that a board puts to the test, with each comparison's numbers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bench.leaderboard import Boards
from bench.report.verdicts import Device, Verdicts, verdicts
from bench.report.view import Claim, claims

WHO = re.compile(r"[^\W\d_][\w'’-]*(?: (?:et al\.|& [^\W\d_][\w'’-]*))? \d{4}")  # Author et al. 2020
ARXIV = re.compile(r"arXiv:\d{4}\.\d{4,5}")
VERDICTS = ("supported", "holds", "mixed", "unclear", "undecided", "fails", "not supported", "no value")


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One claim on one board: compared pairs, or verdicts over several metrics."""

    board: str
    track: str
    claim: Claim | None
    device: Device | None

    @property
    def said(self) -> list[str]:
        """The verdicts, one a comparison or one a data set and one across them."""
        if self.claim is not None:
            return [answer.verdict for answer in self.claim.answers]
        return [one.verdict for one in self.device.judgements] if self.device is not None else []


@dataclass(frozen=True, kw_only=True)
class Paper:
    """All claims of one source, on all boards."""

    id: str
    name: str
    tested: tuple[Tested, ...]

    @property
    def counts(self) -> list[tuple[str, int]]:
        """How often each verdict was given, the good and the bad alike."""
        said = [verdict for one in self.tested for verdict in one.said]
        return [(verdict, said.count(verdict)) for verdict in VERDICTS if verdict in said]


def glances_of(boards: Iterable[Boards]) -> list[tuple[str, Verdicts]]:
    """Boards whose verdicts are worth a table: a line a claim, a column a data set."""
    return [(board.board, found) for board in boards if len((found := verdicts(board)).devices) > 1]


def papers_of(boards: Iterable[Boards]) -> list[Paper]:
    """The papers by name; what no paper says stands last."""
    found: dict[str, list[tuple[str, Tested]]] = {}
    for board in boards:
        for source, tested in _tested(board):
            found.setdefault(_key(source), []).append((source, tested))
    ordered = sorted(found.items(), key=lambda item: (WHO.search(item[0]) is None, item[0].lower()))
    return [
        Paper(
            id=f"p{place}",
            name=_name(key, (source for source, _ in members)),
            tested=tuple(tested for _, tested in members),
        )
        for place, (key, members) in enumerate(ordered, 1)
    ]


def _tested(board: Boards) -> Iterable[tuple[str, Tested]]:
    for device in verdicts(board).devices:
        yield device.source, Tested(board=board.board, track=device.track, claim=None, device=device)
    for claim in claims(board).claims:
        yield claim.source, Tested(board=board.board, track=claim.track, claim=claim, device=None)


def _key(source: str) -> str:
    """Author and year of the paper; where no paper is named, the words that say whose the claim is."""
    who = WHO.search(source)
    return who[0] if who is not None else re.split(r"[,;\[]", source)[0].strip()


def _name(key: str, sources: Iterable[str]) -> str:
    """The key, with the paper's number where some sentence gives it."""
    number = next((found[0] for source in sources if (found := ARXIV.search(source))), "")
    return ", ".join(filter(None, (key, number))) or "no source named"
