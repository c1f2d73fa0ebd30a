"""What the methods made: pictures of the cells of a board, beside the page or in the store."""

import filecmp
import io
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.record import DamagedRecord, Store, StoreError, write_atomic

FOLDER, THUMBNAIL, WIDTH = "pictures", ".webp", 360  # pixels across a thumbnail
SHORT = 10  # digits of a cell's key on a page of its own, more where they are needed to tell cells apart


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Where the pictures of cells lie: address = ``before`` + key + ``between`` + kind + ``.png``.

    Args:
        kinds: key of a cell → names of its pictures.
        later: cells that were run again since the board was made, whose pictures would stand beside old numbers.
        digits: of the key that the page and the addresses have; None: all of them.
        thumbnail: what follows the kind in the address of a small copy; empty where there are none.
    """

    kinds: Mapping[str, tuple[str, ...]]
    before: str
    between: str
    digits: int | None = None
    thumbnail: str = ""
    later: frozenset[str] = frozenset()


def without(artifacts: Mapping[str, str]) -> Gallery:
    """No pictures; takes what ``linked`` does."""
    return Gallery(kinds={}, before="", between="", digits=_digits(artifacts))


def _digits(keys: Collection[str]) -> int:
    """The fewest, but not fewer than ``SHORT``, with which all keys differ."""
    longest = max(map(len, keys), default=SHORT)
    return next((count for count in range(SHORT, longest) if len({key[:count] for key in keys}) == len(keys)), longest)


def linked(store: Store, artifacts: Mapping[str, str], folder: Path) -> Gallery:
    """The pictures where they are: for a page that lies in the store.

    Args:
        artifacts: key of a cell → digest of what its method had made when the board was made.
    """
    kinds, later = _found(store, artifacts)
    place = Path(os.path.relpath(store.root / "cells", folder)).as_posix()
    return Gallery(kinds=kinds, before=f"{place}/", between="/artifacts/", later=later)


def copied(store: Store, artifacts: Mapping[str, str], folder: Path) -> Gallery:
    """Copies of the pictures beside the page, with Pillow thumbnails that load fast; takes what ``linked`` does."""
    kinds, later = _found(store, artifacts)
    digits = _digits(artifacts)
    shrunk = [  # all are copied, whether or not the one before has a thumbnail
        _copy(store.cell(key) / "artifacts" / f"{kind}.png", folder / FOLDER / key[:digits] / f"{kind}.png")
        for key, names in kinds.items()
        for kind in names
    ]
    thumbnail = THUMBNAIL if all(shrunk) else ""
    return Gallery(kinds=kinds, before=f"{FOLDER}/", between="/", digits=digits, thumbnail=thumbnail, later=later)


def _found(store: Store, artifacts: Mapping[str, str]) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """``Gallery.kinds`` and ``Gallery.later``. What lies beside no sound record may be of any run: it is in neither."""
    kinds, later = {}, set()
    for key, artifact in artifacts.items():
        names = tuple(path.stem for path in sorted((store.cell(key) / "artifacts").glob("*.png")))
        with suppress(KeyError, DamagedRecord, StoreError):
            if names and store.read(key).provenance.get("artifact_sha256", "") == artifact:
                kinds[key] = names
            elif names:
                later.add(key)
    return kinds, frozenset(later)


def _copy(picture: Path, to: Path) -> bool:
    """Copy what is new; whether it has a thumbnail."""
    small = to.with_suffix(THUMBNAIL)
    if to.is_file() and filecmp.cmp(picture, to, shallow=False):
        return small.is_file() or _shrink(to, small)
    to.parent.mkdir(parents=True, exist_ok=True)
    small.unlink(missing_ok=True)  # of an earlier picture
    is_shrunk = _shrink(picture, small)
    shutil.copyfile(picture, to)  # last: an equal copy says that the small one is of it
    return is_shrunk


def _shrink(picture: Path, to: Path) -> bool:
    try:
        from PIL import Image
    except ImportError:  # tables are made without it
        return False
    try:
        with Image.open(picture) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDTH, 4 * WIDTH))
            made = io.BytesIO()
            small.save(made, "WEBP", quality=70, method=2)
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
    write_atomic(to, made.getvalue())
    return True
