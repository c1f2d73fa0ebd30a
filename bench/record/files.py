"""Writing that a kill, a power cut or a full disk cannot spoil."""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.record.models import StoreError, StoreFull


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either its old bytes or all of the new ones, also after a power cut.

    Raises:
        StoreFull: no space left; ``path`` is as it was.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with no_space_is_named(path):
        try:
            write_synced(partial, data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file whose folder is still private, and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def no_space_is_named(path: Path) -> Iterator[None]:
    """Turn the system's word for a full disk into ours; every other error passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreFull(
            f"no space left for {path}", "make space (`store size`, `store gc`) and give the same command again"
        ) from error


def digest_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entries(folder: Path) -> list[Path]:
    """What lies in ``folder``, sorted; nothing when it is missing."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def states(folder: Path) -> Iterator[os.stat_result]:
    """Of ``folder`` and every file below it; what vanishes meanwhile is left out."""
    paths = [folder, *(Path(here) / name for here, _, names in os.walk(folder) for name in names)]
    for path in paths:
        with suppress(FileNotFoundError):
            yield path.lstat()


def link(source: Path, target: Path) -> None:
    """The same bytes under a second name; a copy where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def plain_name(name: str, kind: str) -> str:
    """``name`` if it can be one folder's name and nothing else."""
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,127}", name):
        raise StoreError(
            f"{kind} {name!r} cannot be the name of a folder", "use letters, digits, '_', '-' and '.', at most 128"
        )
    return name
