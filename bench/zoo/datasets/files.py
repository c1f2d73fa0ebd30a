"""Finding a data set's files below the data root, and never reading one whose checksum is wrong."""

import hashlib
import os
from functools import cache
from pathlib import Path

from bench.contract import SetupError
from bench.zoo.datasets.card import DataFile, DatasetCard, Layout

ROOT_VARIABLE = "GLASSBENCH_DATA"


def data_root(root: Path | None) -> Path | None:
    """The data root asked for, else the one that the environment variable GLASSBENCH_DATA names, else None.

    Raises:
        SetupError: the folder does not exist.
    """
    if root is None:
        named = os.environ.get(ROOT_VARIABLE)
        if not named:
            return None
        root = Path(named)
    root = root.expanduser()
    if not root.exists():
        raise SetupError(f"data root {root} does not exist", f"give another with --data DIR or {ROOT_VARIABLE}")
    return root


class Found:
    """The files of one complete layout. A file's checksum is compared when the file is first asked for."""

    def __init__(self, card: DatasetCard, root: Path, layout: Layout) -> None:
        self._card, self._root, self._layout = card, root, layout

    def __contains__(self, role: str) -> bool:
        return role in self._layout

    def suffix(self, role: str) -> str:
        """The file's ending, such as ".bin": tells layouts apart that hold the same data in other forms."""
        return Path(self._layout[role].path).suffix

    def path(self, role: str) -> Path:
        """Where the file lies, its checksum compared (once a process for each state of the file)."""
        file, path = self._layout[role], self._root / self._layout[role].path
        if file.checksum:
            status = path.stat()
            algorithm = file.checksum.split(":")[0]
            self._compare(path, file, _digest_of(path, algorithm, status.st_size, status.st_mtime_ns))
        return path

    def read(self, role: str) -> bytes:
        """All bytes of the file; the checksum is that of the very bytes returned."""
        file, path = self._layout[role], self._root / self._layout[role].path
        data = path.read_bytes()
        if file.checksum:
            self._compare(path, file, hashlib.new(file.checksum.split(":")[0], data).hexdigest())
        return data

    def _compare(self, path: Path, file: DataFile, found: str) -> None:
        algorithm, expected = file.checksum.split(":")
        if found != expected:
            raise SetupError(
                f"{path}: {algorithm} should be {expected}, found {found}",
                f"the file is damaged or another one: delete it, then {how_to_get(self._card)}",
            )


@cache
def _digest_of(path: Path, algorithm: str, size: int, changed_ns: int) -> str:
    """Hex digest of a file; size and time of change are arguments so that a changed file is read anew."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def locate(card: DatasetCard, root: Path | None) -> Found:
    """The first layout that is complete below ``root`` (None reads GLASSBENCH_DATA).

    Raises:
        SetupError: there is no root, or no layout is complete: says which files are expected, where, with which
            checksum.
    """
    root = data_root(root)
    if root is None:
        raise SetupError(
            f"{card.name} is read from files, and no data root is given",
            f"use --data DIR or {ROOT_VARIABLE}; {explain(card, None)}",
        )
    for layout in card.layouts:
        if all((root / file.path).is_file() for file in layout.values()):
            return Found(card, root, layout)
    missing = [file.path for file in _fullest(card, root).values() if not (root / file.path).is_file()]
    raise SetupError(f"{card.name}: {root} has no {', '.join(missing)}", explain(card, root))


def _fullest(card: DatasetCard, root: Path) -> Layout:
    """The layout of which the smallest share is missing: the one that was probably meant."""
    return max(card.layouts, key=lambda layout: sum((root / f.path).is_file() for f in layout.values()) / len(layout))


def how_to_get(card: DatasetCard) -> str:
    """What to do to get the files, as the end of a sentence."""
    if card.addresses is None:
        return "copy it here again (no public address serves it)"
    return f"run: run_bench.py fetch {card.name}"


def explain(card: DatasetCard, root: Path | None) -> str:
    """Which files the data set is read from, where they are expected, with which checksums, and what is there now.

    The first layout is shown in full, others in full only where some of their files are there.

    Args:
        root: the data root; None when there is none yet.
    """
    if not card.layouts:
        return f"{card.name}: {card.notes}"
    lines = [how_to_get(card) if card.addresses else "nothing public serves these files: copy them yourself"]
    lines.append(f"expected below {root or 'the data root'}:")
    for number, layout in enumerate(card.layouts):
        present = [root is not None and (root / file.path).is_file() for file in layout.values()]
        if number == 0 or any(present):
            lines += ["or:"] if number else []
            lines += [_line(file, root, there) for file, there in zip(layout.values(), present, strict=True)]
        else:
            lines.append(f"or: {', '.join(file.path for file in layout.values())}")
    return "\n  ".join(lines)


def _line(file: DataFile, root: Path | None, there: bool) -> str:
    state = "" if root is None else "  found" if there else "  missing"
    return f"  {file.path}  {file.checksum or '(its contents are checked)'}{state}"
