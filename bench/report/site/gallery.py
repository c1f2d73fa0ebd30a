"""What the methods made: pictures of the cells of a board, beside the page or in the store."""

import filecmp
import io
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.record import Store, write_atomic

FOLDER, THUMBNAIL, WIDTH = "pictures", ".webp", 360  # pixels across a thumbnail


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Where the pictures of cells lie: address = ``before`` + key + ``between`` + kind + ``.png``.

    Args:
        kinds: key of a cell → names of its pictures.
        thumbnail: what follows the kind in the address of a small copy; empty where there are none.
    """

    kinds: Mapping[str, tuple[str, ...]]
    before: str
    between: str
    thumbnail: str = ""


NO_GALLERY = Gallery(kinds={}, before="", between="")


def linked(store: Store, cells: Iterable[str], folder: Path) -> Gallery:
    """The pictures where they are: for a page that lies in the store."""
    place = Path(os.path.relpath(store.root / "cells", folder)).as_posix()
    return Gallery(kinds=_kinds(store, cells), before=f"{place}/", between="/artifacts/")


def copied(store: Store, cells: Iterable[str], folder: Path) -> Gallery:
    """Copies of the pictures beside the page; with Pillow also thumbnails that load fast."""
    kinds = _kinds(store, cells)
    shrunk = [  # all are copied, whether or not the one before has a thumbnail
        _copy(store.cell(key) / "artifacts" / f"{kind}.png", folder / FOLDER / key / f"{kind}.png")
        for key, names in kinds.items()
        for kind in names
    ]
    return Gallery(kinds=kinds, before=f"{FOLDER}/", between="/", thumbnail=THUMBNAIL if all(shrunk) else "")


def _kinds(store: Store, cells: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found = {key: sorted((store.cell(key) / "artifacts").glob("*.png")) for key in sorted(set(cells))}
    return {key: tuple(path.stem for path in paths) for key, paths in found.items() if paths}


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
