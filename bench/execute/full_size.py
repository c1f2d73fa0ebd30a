"""Pictures at full size: every image of a finished cell as a PNG of its own. Reads the store alone; loads no torch."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from safetensors import safe_open

from bench.contract import SetupError
from bench.record import TENSORS, DamagedRecord, IndexedCell, Record, Store, write_atomic
from bench.zoo.datasets import dataset_card

PERCENTILES = (1, 99)  # of an image's intensities: black and white of its display [spec 3.3]
OTHER_FOLDER = "remove it, or name another folder with --to"

Floats = NDArray[np.floating]


# ---- how an image is shown -----------------------------------------------------------------------------------------


def eight_bit(intensities: Floats) -> NDArray[np.uint8]:
    """Intensities in [0, 1] → the nearest of 0 to 255: rounded, where truncation darkens by half a level [spec 9.1]."""
    return np.rint(intensities.astype(np.float64) * 255).astype(np.uint8)


def stretched(images: Floats) -> Floats:
    """(n, C, H, W) images, each cut at its own 1st and 99th percentile and spread over [0, 1]; flat ones as they are.

    Source: spec 3.3 [code]; the percentiles are over all channels of an image together, so that hues stay.
    """
    low, high = np.percentile(images, PERCENTILES, axis=(1, 2, 3), keepdims=True).astype(images.dtype)
    flat = high <= low
    return np.where(flat, images, (images.clip(low, high) - low) / np.where(flat, 1, high - low))


def picture_of(image: Floats, alpha: Floats | None = None) -> Image.Image:
    """(C, H, W) intensities, grey or RGB; with an (H, W) alpha RGBA, whatever it was.

    Args:
        alpha: in [0, 1], 0 where nothing is to be seen.
    """
    if alpha is None:
        levels = eight_bit(image)
        return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    colours = np.broadcast_to(image, (3, *image.shape[1:]))
    return Image.fromarray(eight_bit(np.concatenate([colours, alpha[None]])).transpose(1, 2, 0))


# ---- what they aim at ----------------------------------------------------------------------------------------------


def targets_in_turn(
    track: str, condition: str, asked: Sequence[int] | None, num_classes: int
) -> tuple[str, Sequence[int]]:
    """("class" or "channel", targets): image n aims at the target n mod their number.

    There are no targets where images aim at none, and of all channels of a tap: only its network can count them.
    """
    if track == "inversion" or condition == "class":
        return "class", asked or range(num_classes)
    return ("channel", asked or ()) if track == "visualization" else ("", ())


# ---- writing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """How many pictures were written, how many were there already, and of how many cells they are."""

    new: int
    known: int
    cells: int


def write_pictures(store: Store, listed: Iterable[IndexedCell], chosen: Iterable[IndexedCell], folder: Path) -> Written:
    """Write the images of the chosen cells that are finished, each with a masked twin where it has a transparency map.

    Nothing is written over: a file that holds the same picture stays, and of one that holds another nothing is written.

    Args:
        listed: all cells of the board: a cell's folder has its key in its name where its row and seed are not enough.

    Raises:
        SetupError: no chosen cell made images, one is damaged, or a file is in the way.
        StoreFull: no space left.
    """
    places = Counter(_place(cell) for cell in listed)
    sources = {}
    for cell in chosen:
        record = _finished(store, cell.key)
        if record is not None:
            name = _place(cell) if places[_place(cell)] == 1 else f"{_place(cell)}_{cell.key}"
            sources[folder / name] = record
    if not sources:
        raise SetupError("no finished cell among those chosen made images", "run the suite, or choose others by --only")
    known = {path for place, record in sources.items() for path in _already(store, place, record)}
    new = 0
    for place, record in sources.items():
        place.mkdir(parents=True, exist_ok=True)
        for name, picture in _pictures(store, record):
            if place / name not in known:
                _save(picture, place / name)
                new += 1
    return Written(new, len(known), len(sources))


def _place(cell: IndexedCell) -> str:
    """The folder of a cell's pictures, in the words of the boards."""
    who = cell.identity
    dataset = "" if who.dataset in who.subject.split(".") else who.dataset
    variant = "" if who.variant == "default" else who.variant
    parts = (who.track, dataset, who.subject, who.condition, who.method, variant, f"seed{who.seed}")
    return "/".join(part for part in parts if part)


def _finished(store: Store, key: str) -> Record | None:
    """The record of a cell that made images, its files checked; None of one that made none, or has no record yet.

    Raises:
        SetupError: it is damaged.
    """
    try:
        record = store.read(key, artifacts=True)
    except KeyError:
        return None
    except DamagedRecord as problem:
        raise SetupError(f"{key}: {problem}", "run its suite again: the record is then set aside") from problem
    if record.status != "ok" or TENSORS not in record.digests:
        return None
    with safe_open(store.cell(key) / TENSORS, "np") as tensors:
        return record if "generated" in tensors.keys() else None  # noqa: SIM118 - no mapping


def _already(store: Store, place: Path, record: Record) -> Iterator[Path]:
    """The cell's pictures that are there.

    Raises:
        SetupError: something of that name is another picture, or none; a file has the name of a folder.
    """
    there = next(above for above in (place, *place.absolute().parents) if above.exists())
    if not there.is_dir():
        raise SetupError(f"{there} is no folder", OTHER_FOLDER)
    if there != place:
        return
    for name, picture in _pictures(store, record):
        if (place / name).exists():
            if not _holds(place / name, picture):
                raise SetupError(f"{place / name} is another picture", OTHER_FOLDER)
            yield place / name


def _pictures(store: Store, record: Record) -> Iterator[tuple[str, Image.Image]]:
    """File name and picture of each image and of its masked twin; read one by one."""
    who = record.identity
    kind, targets = targets_in_turn(
        who.track, who.condition, record.spec.get("targets"), dataset_card(who.dataset).num_classes
    )
    if record.is_reference and kind == "channel":  # any real images: they show none
        targets = ()
    with safe_open(store.cell(record.key) / TENSORS, "np") as tensors:
        made = tensors.get_slice("generated")
        alphas = tensors.get_slice("transparency") if "transparency" in tensors.keys() else None  # noqa: SIM118
        count = made.get_shape()[0]
        for number in range(count):
            target = f"_{kind}{targets[number % len(targets)]}" if targets else ""
            stem = f"{number:0{max(3, len(str(count - 1)))}}{target}"
            image = made[number : number + 1]
            yield f"{stem}.png", picture_of(image[0])
            if alphas is not None:
                yield f"{stem}_masked.png", picture_of(stretched(image)[0], alphas[number : number + 1][0])


def _holds(path: Path, picture: Image.Image) -> bool:
    try:
        with Image.open(path) as there:
            return there.mode == picture.mode and np.array_equal(np.asarray(there), np.asarray(picture))
    except (UnidentifiedImageError, OSError):
        return False


def _save(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    write_atomic(path, content.getvalue())
