"""A frozen copy of boards that a paper can cite and a later run can be compared with, pair by pair.

leaderboards/releases/v<version>/release.json    what it holds, and the sha256 of every file
                                 <board>/        results.csv.xz, the tables of its tracks, claims, values.safetensors.xz
leaderboards/changes.csv                         what differs from the release before

A release is never changed: its folder appears whole, by one rename, and what is in it is checked against its digests.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.leaderboard.boards import Boards, build
from bench.leaderboard.changes import changes_between, log_changes
from bench.leaderboard.files import RELEASE_FILE, RESULTS, folders_of, frozen, is_board, load_results, tables, to_json
from bench.leaderboard.schema import BoardError
from bench.record import Store, SuiteIndex, write_atomic

RELEASES, CHANGES_FILE = "releases", "changes.csv"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release on disk.

    Args:
        folder: holds one folder a board.
        content: of ``release.json``.
    """

    folder: Path
    content: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Without the v of its folder."""
        return str(self.content["version"])

    @property
    def boards(self) -> Mapping[str, Mapping[str, Any]]:
        """Board → its suite, profile, version and what its cells came to."""
        found: Mapping[str, Mapping[str, Any]] = self.content["boards"]
        return found


def open_release(folder: Path) -> Release:
    """The release in a folder, with every file as it was frozen.

    Raises:
        BoardError: there is none, or a file is missing, another, or none of its own.
    """
    path = folder / RELEASE_FILE
    try:
        content = json.loads(path.read_bytes())
        digests = dict(content["files"])
        missing = {"version", "date", "boards"} - set(content)
        if content["schema"] > SCHEMA:
            raise BoardError(f"{path} has schema {content['schema']}, known is {SCHEMA}", "update glassbench")
    except FileNotFoundError:
        raise BoardError(
            f"no release in {folder}: it has no {RELEASE_FILE}", "make one: run_bench.py release VERSION"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BoardError(f"{path} cannot be read: {error}", "take the release again") from error
    if missing:
        raise BoardError(f"{path} does not say: {', '.join(sorted(missing))}", "take the release again")
    for file in sorted(folder.glob("*/*")):  # a plain table would be read in place of the packed one
        if f"{file.parent.name}/{file.name}" not in digests:
            raise BoardError(f"{file} was not released", "a release is never changed: move it elsewhere")
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file() or _digest(file.read_bytes()) != digest:
            what = "is not the file that was released" if file.is_file() else "is missing"
            raise BoardError(f"{file} {what}", "a release is never changed: take it again, or make another version")
    return Release(folder=folder, content=content)


def check_released(place: Path) -> None:
    """Where a folder is a release or a board of one: that it is as it was frozen; raises as ``open_release``."""
    for folder in (place, place.parent):
        if (folder / RELEASE_FILE).is_file():
            open_release(folder)


def released(leaderboards: Path) -> list[Path]:
    """Folders of all releases, oldest version first."""
    found = {path: _numbers(path.name) for path in (leaderboards / RELEASES).glob("v*") if _numbers(path.name)}
    return sorted(found, key=lambda path: found[path])


def last_release(leaderboards: Path) -> Release:
    """The one of the highest version; raises ``BoardError`` when there is none."""
    known = released(leaderboards)
    if not known:
        raise BoardError(
            f"no release under {leaderboards / RELEASES}", "make one: run_bench.py release VERSION, or name a folder"
        )
    return open_release(known[-1])


def freeze(store: Store, leaderboards: Path, names: Sequence[str], *, version: str, date: str) -> Release:
    """Freeze published boards as a release, and log what it changes.

    Only what was published is released: each board is made from the store once more, for its values, and its
    ``results.csv`` has to be the published one byte for byte. A commit with local changes is no reason to refuse, as
    its numbers are published already; ``release.json`` names the cells.

    Args:
        leaderboards: holds the published boards, and gets ``releases`` and ``changes.csv``.
        names: boards; all published ones when empty.
        version: X.Y.Z.
        date: ISO 8601, from the caller.

    Raises:
        BoardError: the request is wrong, or a board is not fit for release; nothing was written.
        StoreFull: no space left; there is no such release.
    """
    folder = _place(leaderboards, version)
    earlier = [path for path in released(leaderboards) if _numbers(path.name) < _numbers(folder.name)]
    files: dict[str, bytes] = {}
    said: dict[str, Any] = {}
    changes: list[pd.DataFrame] = []
    for name in dict.fromkeys(names or folders_of(leaderboards)):
        boards = _published_board(store, leaderboards, name)
        said[name] = _facts(boards, store.read_index(name))
        files |= {f"{name}/{file}": data for file, data in frozen(boards).items()}
        if earlier and is_board(earlier[-1] / name):
            reason = f"{folder.name} after {earlier[-1].name}, board {name}"
            changes.append(changes_between(load_results(earlier[-1] / name), boards.long, date=date, reason=reason))
    content = {
        "schema": SCHEMA,
        "version": version,
        "date": date,
        "torch": _all(said, "torch"),
        "commits": _all(said, "commits"),
        "boards": said,
        "files": {file: _digest(data) for file, data in sorted(files.items())},
    }
    partial = _partial(folder, files | {RELEASE_FILE: to_json(content)})
    try:
        if any(len(one) for one in changes):  # logged first: what a release changes cannot be found out after it
            log_changes(leaderboards / CHANGES_FILE, pd.concat(changes, ignore_index=True))
        _appear(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Release(folder=folder, content=content)


# ---- parts ---------------------------------------------------------------------------------------------------------


def _place(leaderboards: Path, version: str) -> Path:
    """The folder of a release that does not exist yet."""
    if not _numbers(f"v{version}"):
        raise BoardError(f"version should be three numbers, X.Y.Z, got {version!r}", "for example 0.1.0")
    folder = leaderboards / RELEASES / f"v{version}"
    if folder.exists():
        raise _exists(folder)
    return folder


def _exists(folder: Path) -> BoardError:
    return BoardError(f"{folder} exists, and a release is never changed", "give a higher version")


def _numbers(name: str) -> tuple[int, ...]:
    """Of a folder's name, ``v0.10.0`` → (0, 10, 0); empty when it is no release's."""
    matched = re.fullmatch(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", name, flags=re.ASCII)
    return tuple(map(int, matched.groups())) if matched else ()


def _published_board(store: Store, leaderboards: Path, name: str) -> Boards:
    path = leaderboards / name / RESULTS
    if not path.is_file():
        raise BoardError(f"no board {name!r} in {leaderboards}", f"publish it first: run_bench.py rank {name}")
    if name not in store.boards():
        raise BoardError(
            f"no board {name!r} in the store {store.root}, which has the values of its cells", "name its --store"
        )
    boards = build(store, name)
    if tables(boards)[RESULTS] != path.read_bytes():
        raise BoardError(
            f"{path} is not what the store {store.root} gives: its records or its index have changed since",
            f"publish it first: run_bench.py rank {name}",
        )
    failed = _cells(boards, boards.long["selftest"] == "fail")
    if failed:
        raise BoardError(
            f"board {name}: {len(failed)} cells were measured while the selftest failed: {', '.join(failed[:5])}"
            f"{', …' if len(failed) > 5 else ''}",
            "run the suite again: it takes their readings anew",
        )
    return boards


def _cells(boards: Boards, chosen: "pd.Series[bool]") -> list[str]:
    """Keys of the cells of the chosen rows."""
    frame = boards.long
    return sorted({str(cell) for cell in frame["cell_id"][chosen & (frame["aggregate"] == "seed")]})


def _facts(boards: Boards, index: SuiteIndex) -> dict[str, Any]:
    """What ``release.json`` says of a board."""
    frame = boards.long
    seeds = frame[frame["aggregate"] == "seed"]
    stamps = seeds.groupby("selftest")["cell_id"].nunique()
    ok = int(sum(wide["n_ok"].sum() for wide in boards.wide.values()))
    return {
        "suite": index.suite,
        "profile": index.profile,
        "suite_version": index.suite_version,
        "protocol": index.protocol,
        "rows": len(frame),
        "cells": {"ok": ok, "not ok": len(index.cells) - ok},
        "torch": _known(seeds["torch"]),
        "commits": _known(seeds["code_sha"]),
        "cells of commits with local changes": _cells(boards, frame["code_dirty"].eq(True).fillna(False)),
        "selftest": {str(stamp): int(count) for stamp, count in stamps.items()},
    }


def _known(column: "pd.Series[str]") -> list[str]:
    return sorted({str(text) for text in column if text})


def _all(said: Mapping[str, Any], name: str) -> list[str]:
    return sorted({one for facts in said.values() for one in facts[name]})


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _partial(folder: Path, files: Mapping[str, bytes]) -> Path:
    """All files in a folder of this process beside the release's, or none."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise BoardError(f"no release can be written to {folder.parent}: {error.strerror}") from error
    try:
        partial.chmod(0o755)  # a temporary folder is its owner's alone
        for name, data in files.items():
            path = partial / name
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, data)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and folder.exists():  # whose process took this for what a killed one left
            raise _exists(folder) from error
        raise
    return partial


def _appear(partial: Path, folder: Path) -> None:
    """The release is there from now on; what killed processes left of it goes."""
    try:
        partial.rename(folder)
    except OSError as error:  # made by another process meanwhile
        raise _exists(folder) from error
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)
