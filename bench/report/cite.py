"""What to cite: a suite's boards as BibTeX, the exact rows, and the papers that their methods come from."""

import fnmatch
import hashlib
import lzma
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from bibtexparser.entrypoint import write_string
from bibtexparser.library import Library
from bibtexparser.model import Entry, Field
from pylatexenc.latexencode import RULE_DICT, UnicodeToLatexConversionRule, UnicodeToLatexEncoder

from bench.leaderboard import PLACE, BoardError, Boards, folders_of, load_boards
from bench.leaderboard.files import RESULTS, boards_in
from bench.leaderboard.release import open_release, released
from bench.leaderboard.schema import to_csv, unknown
from bench.record import write_atomic

Row = Mapping[str, Any]
Asks = Callable[[Row], bool]

LINE = ("track", *PLACE, "method", "variant")
ARXIV = re.compile(r"(?<![\w.])\d{4}\.\d{4,5}(?![\w.])")
SHARED = ("torch", "code_sha", "run_id")  # empty in a mean whose seeds differ; a citation then names all of them
# Columns of the cited rows; "seeds", "n_of_seeds" and "cells" say what stands behind a mean.
COLUMNS = (
    *("suite_version", *LINE[:2], "split", *LINE[2:], "method_version", "metric", "metric_version", "aggregate"),
    *("value", "unit", "ci_low", "ci_high", "ci_level", "ci_method", "std", "n_seeds", "n_scored", "n_reference"),
    *("status", "seeds", "n_of_seeds", "cells", "precision", "gpu_name", "torch", "code_sha", "code_dirty", "run_id"),
)
# A brace counts for BibTeX even behind a backslash, so it must not be written as one.
_BRACES = UnicodeToLatexConversionRule(RULE_DICT, {ord("{"): r"{\textbraceleft}", ord("}"): r"{\textbraceright}"})
_LATEX = UnicodeToLatexEncoder(
    conversion_rules=[_BRACES, "defaults"], unknown_char_policy="keep", unknown_char_warning=False
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """The boards of one suite, and what names them in a reference list.

    Args:
        release: its version, empty for boards that are in no release yet.
        date: ISO 8601; of the release, or of the newest cell.
        digest: sha256 of ``results.csv``, decompressed.
    """

    boards: Boards
    release: str
    date: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a method comes from, in the words of its file; empty where it does not say."""

    source: str
    differs: str


# ---- finding -------------------------------------------------------------------------------------------------------


def published(suite: str, leaderboards: Path, release: Path | None = None) -> Published:
    """The boards to cite: of the release that is given, of the newest one that has the suite, or as they stand.

    Raises:
        BoardError: no such suite there, or a file that cannot be read or is not the one that was released.
    """
    holding = (folder for folder in reversed(released(leaderboards)) if suite in boards_in(folder))
    folder = release or next(holding, None)
    frozen = open_release(folder) if folder else None
    board = folders_of(folder or leaderboards, [suite])[suite]  # a path is no name: it may lead out of a release
    boards = load_boards(board)
    newest = max((str(day) for frame in boards.wide.values() for day in frame["updated_utc"]), default="")
    return Published(
        boards=boards,
        release=frozen.version if frozen else "",
        date=str(frozen.content["date"]) if frozen else newest,
        digest=_digest(board),
    )


def _digest(board: Path) -> str:
    packed = board / f"{RESULTS}.xz"
    content = lzma.decompress(packed.read_bytes()) if packed.exists() else (board / RESULTS).read_bytes()
    return hashlib.sha256(content).hexdigest()


# ---- rows ----------------------------------------------------------------------------------------------------------


def cited_rows(boards: Boards, keys: Sequence[str], metrics: Sequence[str] = ()) -> list[Row]:
    """The rows that ``keys`` name, in the boards' order, with the columns ``COLUMNS``.

    Args:
        keys: a method, method/variant, track/method, a cell's name as for ``run --only``, or a cell's key or its first
            digits. A pattern may have ``*`` and gives means over seeds; a cell gives the row of its seed.
        metrics: patterns; the metric that ranks the row's board when left out.

    Raises:
        BoardError: a key or metric that names nothing, or digits that begin several keys.
    """
    if not keys:
        return []
    asked = _asked(boards, metrics)
    rows: list[Row] = [row for row in _records(boards.long) if asked(row)]
    chosen: set[int] = set()
    for key in keys:
        wanted = _named(boards.long, key)
        own = [place for place, row in enumerate(rows) if wanted(row)]
        if not own:
            raise BoardError(f"{key!r} has no row of the metrics asked for", "--metric '*' gives all that it has")
        chosen.update(own)
    seeds: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["aggregate"] == "seed" and row["status"] == "ok":
            seeds.setdefault(_score(row), []).append(row)
    return [_with_seeds(rows[place], seeds) for place in sorted(chosen)]


def _records(frame: pd.DataFrame) -> list[Any]:
    return frame.to_dict("records")


def _asked(boards: Boards, metrics: Sequence[str]) -> Asks:
    """Whether a row is of the metrics asked for."""
    known = [str(name) for name in boards.long["metric"].unique()]
    for pattern in metrics:
        if not fnmatch.filter(known, pattern):
            raise unknown(
                f"no metric {pattern!r} on the boards of {boards.board}.", pattern, known, "schema.json lists them"
            )
    if metrics:
        return lambda row: any(fnmatch.fnmatchcase(row["metric"], pattern) for pattern in metrics)
    ranking = {
        (track, *(group[name] for name in (*PLACE, "primary")))
        for track, sidecar in boards.sidecars.items()
        for group in sidecar["groups"]
    }
    return lambda row: tuple(row[name] for name in (*LINE[:4], "metric")) in ranking


def _named(long: pd.DataFrame, key: str) -> Asks:
    """Whether a row is a mean of a line that the key names; where it names none, whether it is of a cell so named."""
    known = {name for line in _records(long[list(LINE)].drop_duplicates()) for name in _names(line)}
    if _answers(known, key):
        return lambda row: row["aggregate"] == "mean" and _answers(_names(row), key)
    cells = _records(long[long["cell_id"] != ""].drop_duplicates("cell_id"))
    named = {cell["cell_id"] for cell in cells if _answers(_names_of_cell(cell), key)}
    if not named:
        named = {cell["cell_id"] for cell in cells if cell["cell_id"].startswith(key)}
        if len(named) > 1:
            raise BoardError(f"{len(named)} cells have a key that begins with {key!r}", "give more of its digits")
    if not named:
        raise unknown(
            f"no row or cell is called {key!r}.",
            key,
            known,
            "give a method, method/variant, track/method, a cell's name as for run --only, or a cell_id's first digits",
        )
    return lambda row: row["cell_id"] in named


def _answers(names: Collection[str], key: str) -> bool:
    return key in names or any(fnmatch.fnmatchcase(name, key) for name in names)


def _names(row: Row) -> list[str]:
    """All that a line answers to; the last two are whole."""
    track, dataset, subject, condition, method, variant = (str(row[name]) for name in LINE)
    full = f"{track}/{subject}/{condition}/{method}/{variant}"
    short = f"{method}/{variant}"
    return [method, short, f"{track}/{method}", f"{track}/{short}", full, f"{dataset}/{full}"]


def _names_of_cell(row: Row) -> list[str]:
    return [f"{name}/{row['seed']}" for name in _names(row)[-2:]]


def _score(row: Row) -> tuple[Any, ...]:
    """What a mean and its seeds have in common."""
    return tuple(row[name] for name in (*LINE, "method_version", "metric", "metric_version", "config_sha256"))


def _with_seeds(row: Row, seeds: Mapping[tuple[Any, ...], list[Row]]) -> Row:
    """The row, and the seeds and cells that it stands for."""
    own = [row] if row["aggregate"] == "seed" else seeds.get(_score(row), [])
    more = {
        "seeds": [one["seed"] for one in own],
        "n_of_seeds": ["?" if pd.isna(one["n_scored"]) else one["n_scored"] for one in own],
        "cells": [one["cell_id"] for one in own],
        **{name: [row[name]] if row[name] else sorted({one[name] for one in own}) for name in SHARED},
    }
    cited = dict(row) | {name: " ".join(map(str, values)) for name, values in more.items()}
    return {name: cited[name] for name in COLUMNS}


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """The cited rows as CSV, numbers in full.

    Raises:
        BoardError: the file cannot be written.
    """
    try:
        write_atomic(path, to_csv(pd.DataFrame(rows, columns=list(COLUMNS))))
    except OSError as error:
        raise BoardError(f"{path} cannot be written: {error.strerror}", "give --rows another path") from error


# ---- BibTeX --------------------------------------------------------------------------------------------------------


def bibtex(found: Published, rows: Sequence[Row], citation: Path, sources: Mapping[str, Source]) -> str:
    """The suite's entry with the rows as its annotation, then an entry for each paper behind the rows' methods.

    Args:
        citation: the project's CITATION.cff.
        sources: "track/method" → where it comes from; methods that are not in it get no entry.
    """
    project = _citation(citation)
    entries = [_suite_entry(found, rows, project)]
    papers = {number: paper for paper in project.get("references", []) for number in _numbers_of(paper)}
    for name in dict.fromkeys(f"{row['track']}/{row['method']}" for row in rows):
        if name in sources and sources[name].source:
            numbers = ARXIV.findall(sources[name].source)
            entries += [_paper_entry(papers[number], number) for number in numbers if number in papers]
            entries.append(_source_entry(name, sources[name], [one for one in numbers if one not in papers]))
    unique = {entry.key: entry for entry in entries}
    return write_string(Library(list(unique.values())))


def _citation(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {"title": content["title"], "authors": content["authors"], "version": content["version"], **content}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise BoardError(f"{path} cannot be read: {error}", "run from a copy of the repository") from error


def _suite_entry(found: Published, rows: Sequence[Row], project: Mapping[str, Any]) -> Entry:
    about = next(iter(found.boards.sidecars.values()))
    title = (
        f"{project['title'].split(':')[0]} {found.release or project['version']}: suite {about['suite']},"
        f" version {about['suite_version']}, profile {about['profile']}"
    )
    state = f"Release {found.release}" if found.release else f"Unreleased, as of {found.date[:10]}"
    key = "-".join(("glassbench", found.boards.board, about["suite_version"]))
    fields = {
        "title": title,
        "year": found.date[:4],
        "version": found.release or project["version"],
        "note": f"{state}. SHA-256 of results.csv: {found.digest}",
    }
    if rows:
        fields["annote"] = "\n".join(row_text(row, found.boards) for row in rows)
    return _entry("misc", key, project["authors"], fields)


def _paper_entry(paper: Mapping[str, Any], number: str) -> Entry:
    """A paper that CITATION.cff knows in full."""
    fields = {"title": paper["title"], "year": str(paper["year"])}
    if "conference" in paper:
        fields["booktitle"] = paper["conference"]["name"]
    if "start" in paper:
        fields["pages"] = f"{paper['start']}-{paper['end']}"
    fields |= {"doi": paper["doi"]} if "doi" in paper else {}
    kind = "inproceedings" if "conference" in paper else "misc"
    return _entry(kind, f"arxiv-{number}", paper["authors"], fields | _eprint(number))


def _source_entry(name: str, source: Source, numbers: Sequence[str]) -> Entry:
    """A method's source in the words of its file: what nobody has put into fields stays a note."""
    fields = {"title": f"Source of glassbench's method {name}", "note": source.source}
    if source.differs:
        fields["annote"] = f"glassbench differs: {source.differs}"
    key = "glassbench-method-" + re.sub(r"[^\w-]+", "-", name)
    return _entry("misc", key, (), fields | (_eprint(numbers[0]) if numbers else {}))


def _entry(kind: str, key: str, authors: Sequence[Mapping[str, str]], fields: Mapping[str, str]) -> Entry:
    people = " and ".join(_person(one) for one in authors)
    written = [Field("author", people)] if people else []
    written += [Field(name, latex(text)) for name, text in fields.items()]
    return Entry(kind, re.sub(r"[^\w.-]+", "-", key, flags=re.ASCII), written)


def _person(author: Mapping[str, str]) -> str:
    """``Family, Given``; braces keep a group's name in one piece."""
    if "name" in author:
        return f"{{{latex(author['name'])}}}"
    return latex(f"{author['family-names']}, {author['given-names']}")


def _eprint(number: str) -> dict[str, str]:
    return {"eprint": number, "archiveprefix": "arXiv"}


def _numbers_of(paper: Mapping[str, Any]) -> list[str]:
    return [number for one in paper.get("identifiers", []) for number in ARXIV.findall(str(one["value"]))]


def latex(text: str) -> str:
    """Text as LaTeX shows it, whatever it holds."""
    return str(_LATEX.unicode_to_latex(text))


def row_text(row: Row, boards: Boards) -> str:
    """One cited row as a line: where it stands, the number with its interval, and what it was made with."""
    decimals = {m["metric"]: m.get("decimals", 4) for m in boards.sidecars[row["track"]]["metrics"]}
    digits = decimals.get(row["metric"], 4)
    place = ", ".join(filter(None, (row["track"], row["dataset"], row["subject"], row["condition"])))
    value: str = row["status"] if math.isnan(row["value"]) else f"{row['value']:.{digits}f} {row['unit']}"
    if not math.isnan(row["ci_low"]):
        value += f" [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}] at {row['ci_level']:.0%}"
    commits = " ".join(sha[:12] for sha in row["code_sha"].split())
    made = [f"seeds {row['seeds']}", f"n {row['n_of_seeds']}", f"torch {row['torch']}", f"commit {commits}"]
    return (
        f"{place}: {row['method']} ({row['variant']}) version {row['method_version']},"
        f" {row['metric']} (version {row['metric_version']}) = {value}; {', '.join(made)}; cells {row['cells']}."
    )
