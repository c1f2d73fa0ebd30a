"""Writes the pages: text that reads without scripts, one style, one script, and a data file a board."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bench.leaderboard import BoardError, Boards, load_boards
from bench.record import Store, write_atomic
from bench.report.site import gallery as galleries
from bench.report.site.claims import glances_of, papers_of
from bench.report.site.data import artifacts_of, board_script
from bench.report.site.gallery import Gallery
from bench.report.site.rows import Track, decimals, text, tracks_of, with_interval

if TYPE_CHECKING:  # `rank` in a terminal and `compare` need no pages
    from jinja2 import Environment

TEMPLATES = Path(__file__).parents[1] / "templates"
SCRIPTS = ("glassbench.css", "glassbench.js", "plots.js")
MARK = b"glassbench"
HOW = {  # what stands above what on a contact sheet
    "reconstruction": "originals above, copies below",
    "adversarial": "clean images above, attacked ones below",
    "attribution": "images above, maps below",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """One board and where its page is."""

    boards: Boards
    tracks: Sequence[Track]
    gallery: Gallery
    file: str
    stem: str  # of its data file
    about: str  # what the suite is, in its own words

    @property
    def address(self) -> str:
        return quote(self.file)

    @property
    def script(self) -> str:
        return quote(f"data/{self.stem}.js")

    @property
    def facts(self) -> dict[str, Any]:
        """What a reader of the list of boards wants to know."""
        sidecar: Mapping[str, Any] = next(iter(self.boards.sidecars.values()), {})
        rows = [row for track in self.tracks for row in track.rows]
        cells = self.boards.long.drop_duplicates("cell_id")
        hardware = [str(name) for name in cells["gpu_name"].unique() if name] or ["CPU"]
        return {
            **{name: sidecar.get(name, "") for name in ("suite", "profile", "suite_version", "protocol")},
            "datasets": sorted({row.name["dataset"] for row in rows}),
            "rows": len(rows),
            "ok": sum(row.n_ok for row in rows),
            "not_ok": sum(row.n_cells - row.n_ok for row in rows),
            "updated": max((str(frame["updated_utc"].max()) for frame in self.boards.wide.values()), default="")[:10],
            "torch": ", ".join(sorted({str(version) for version in cells["torch"] if version})),
            "hardware": ", ".join(sorted(hardware)),
        }


def write_site(
    folders: Sequence[Path], to: Path, *, store: Store | None = None, about: Mapping[str, str] | None = None
) -> Path:
    """Write the pages of boards that lie as files; returns the first page. What else lies in ``to`` is left alone.

    Args:
        folders: each of a board.
        store: where pictures of cells are copied from; without it rows have none.
        about: name of a suite → what it is.

    Raises:
        BoardError: a board cannot be read, or ``to`` holds a file of the same name that is no page of ours; nothing
            was written.
    """
    named: dict[str, Boards] = {}
    for folder in folders:
        boards = load_boards(folder)
        named[_stem(boards.board, set(named))] = boards
    check_ours(to, [*SCRIPTS, "index.html", "claims.html", *(name for stem in named for name in _files_of(stem))])
    pages = []
    for stem, boards in named.items():
        cells = artifacts_of(boards)
        made = galleries.without(cells) if store is None else galleries.copied(store, cells, to)
        pages.append(_page(boards, made, f"{stem}.html", stem, about))
    _write(pages, to)
    return to / "index.html"


def write_page(boards: Boards, folder: Path, *, store: Store | None = None, sheets: Sequence[Path] = ()) -> Path:
    """Write the page of one board as ``index.html`` and return its path.

    Args:
        store: rows link to the pictures that lie there.
        sheets: pictures of all rows of a track, shown on the page; those that do not exist are left out.
    """
    cells = artifacts_of(boards)
    made = galleries.without(cells) if store is None else galleries.linked(store, cells, folder)
    page = _page(boards, made, "index.html", _stem(boards.board, set()), None)
    found = [(path.stem, quote(Path(os.path.relpath(path, folder)).as_posix())) for path in sheets if path.is_file()]
    _write([page], folder, sheets=found, is_site=False)
    return folder / "index.html"


def _page(boards: Boards, made: Gallery, file: str, stem: str, about: Mapping[str, str] | None) -> Page:
    suite = str(next(iter(boards.sidecars.values()), {}).get("suite", ""))
    said = (about or {}).get(suite, "")
    return Page(boards=boards, tracks=tracks_of(boards), gallery=made, file=file, stem=stem, about=said)


def _stem(board: str, taken: set[str]) -> str:
    """The board's name as a file name; one that had to change, or is taken, ends in a digest of the board's."""
    plain = re.sub(r"[^\w.-]", "_", board, flags=re.ASCII)
    if plain == board and plain not in {*taken, "index", "claims"} and not plain.startswith("."):
        return plain
    return f"{plain.strip('.')}_{hashlib.sha256(board.encode()).hexdigest()[:8]}"


def _compact(script: str) -> str:
    """A script or style without indentation and lines of comment: it is read by browsers."""
    lines = (line.strip() for line in script.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith(("//", "/**")))


def _write(pages: Sequence[Page], to: Path, *, sheets: Sequence[tuple[str, str]] = (), is_site: bool = True) -> None:
    """All files at once, so that a page that cannot be made leaves nothing half-written."""
    papers = papers_of([page.boards for page in pages])
    shared = {"papers": papers, "pages": pages, "is_site": is_site, "sheets": sheets, "how": HOW}
    files = {to / name: _compact((TEMPLATES / name).read_text(encoding="utf-8")) for name in SCRIPTS}
    for page in pages:
        files[to / page.file] = _render("board.html", page=page, **shared)
        files[to / "data" / f"{page.stem}.js"] = board_script(page.boards, page.tracks, page.gallery)
    if papers:
        page_of = {page.boards.board: page for page in pages}
        glances = glances_of(page.boards for page in pages)
        files[to / "claims.html"] = _render("claims.html", page_of=page_of, glances=glances, **shared)
    if is_site:
        files[to / "index.html"] = _render("index.html", **shared)
    (to / "data").mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        write_atomic(path, content.encode())


def _files_of(stem: str) -> tuple[str, str]:
    return f"{stem}.html", f"data/{stem}.js"


def check_ours(to: Path, names: Iterable[str]) -> None:
    """Nothing that somebody else wrote is written over; raises ``BoardError`` where it would be."""
    hint = "give another folder with --to"
    for folder in (to / "data", to / galleries.FOLDER):
        if folder.exists() and not folder.is_dir():
            raise BoardError(f"{folder} should be a folder", hint)
    for path in (to / name for name in names):
        if path.exists() and not (path.is_file() and MARK in path.read_bytes()[:400]):
            raise BoardError(f"{path} is there already and was not written by site", hint)


def _render(name: str, **content: Any) -> str:
    return _templates().get_template(name).render(**content).strip() + "\n"


@cache
def _templates() -> "Environment":
    """Names come from contributors: everything is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.globals.update(decimals=decimals, text=text, with_interval=with_interval)
    return made
