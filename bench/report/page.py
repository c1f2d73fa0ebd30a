"""One page a board: every table, what has no result, and the pictures; no script or style from elsewhere."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from bench.leaderboard import Boards
from bench.record import write_atomic
from bench.report import view
from bench.report.verdicts import verdicts

TEMPLATE = Path(__file__).parent / "templates" / "board.html"


def write_page(boards: Boards, folder: Path, pictures: Sequence[Path] = ()) -> Path:
    """Write ``index.html`` and return its path.

    Args:
        pictures: referred to by their place relative to the page; those that do not exist are left out.
    """
    from jinja2 import Environment

    # Names come from contributors: everything is escaped.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    found = [
        {"name": path.stem, "address": quote(Path(os.path.relpath(path, folder)).as_posix())}
        for path in pictures
        if path.is_file()
    ]
    tracks = view.tracks(boards)
    tables = [name for name in ("claims", "paths", *boards.wide) if (folder / f"{name}.csv").is_file()]
    page = template.render(
        board=boards.board,
        verdicts=verdicts(boards),
        claims=view.claims(boards),
        tracks=tracks,
        tables=tables,
        pictures=found,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "index.html", (page.rstrip() + "\n").encode())
    return folder / "index.html"
