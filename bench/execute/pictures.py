"""Contact sheets: what a method made, as one picture."""

import dataclasses
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from bench.execute.full_size import eight_bit, stretched, targets_in_turn
from bench.execute.lab import Lab
from bench.plan.cells import Cell, Plan
from bench.record import Store, write_atomic
from bench.zoo.foundations import class_names

SHOWN = 40
COLUMNS = 10
WIDEST = 112  # pixels of one picture on a sheet: ten of them fill a page
SMALLEST = 48  # narrower pictures are shown twice as large
CAPTION = 15  # pixels of the line above a picture
SHEET_ROW = 270  # pixels of a cell's sheet that the suite's sheet shows, at most, but for the first row
ROOM = {"nearest_farthest": 450}  # the same of other kinds: three classes of small images
TITLES = {"masked_sheet": "masked: fades to white where pixels hardly mattered"}  # the others say what they are


def cell_sheet(cell: Cell, lab: Lab, artifacts: Mapping[str, Tensor], path: Path) -> None:
    """Save a grid of what the cell made; originals stand above their copies where the track pairs them.

    Visualizations stand below the name of their target, as far as possible one target a column. Where the cell has
    transparency maps, the same grid shows through them in ``masked_sheet.png``. Tracks that make no pictures
    (training, detection) get no sheet.
    """
    strip = cell_strip(cell, lab, artifacts, SHOWN)
    if strip is None:
        return
    names = _target_names(cell, lab)
    columns = len(names) * (COLUMNS // len(names)) if 0 < len(names) <= COLUMNS else COLUMNS
    captions = [names[number % len(names)] for number in range(len(strip))] if names else []
    rows = math.ceil(len(strip) / columns)
    save_sheet(tiled(strip, columns, captions), rows, path)
    if "transparency" in artifacts:
        masked = masked_strip(strip, artifacts["transparency"][:SHOWN])
        save_sheet(tiled(masked, columns, captions), rows, path.with_name("masked_sheet.png"))


def _target_names(cell: Cell, lab: Lab) -> list[str]:
    """What the images of a visualization aim at in turn; empty in other tracks, and where it is all channels.

    Real images beside a channel's are any: they show none.
    """
    if cell.track != "visualization" or (cell.is_reference and cell.condition != "class"):
        return []
    card = lab.data(cell).card
    kind, targets = targets_in_turn(cell.track, cell.condition, cell.spec["targets"], card.num_classes)
    known = class_names(card) if kind == "class" else None
    return [known[target] if known else f"{kind} {target}" for target in targets]


def masked_strip(pictures: Tensor, alphas: Tensor) -> Tensor:
    """(n, 3, h, w) pictures, each stretched as for display, over white where its (h, w) alpha lets it through."""
    shown = torch.from_numpy(stretched(pictures.numpy()))
    return 1 - alphas[:, None] * (1 - shown)


def cell_strip(cell: Cell, lab: Lab, artifacts: Mapping[str, Tensor], count: int) -> Tensor | None:
    """(n, 3, h, w) float32 in [0, 1]: the first ``count`` pictures of a cell, or None when it made none."""
    if "maps" in artifacts:
        made = _scaled(artifacts["maps"][:count])
    elif "generated" in artifacts:
        made = artifacts["generated"][:count]
    else:
        return None
    made = made.expand(-1, 3, -1, -1) if made.shape[1] == 1 else made
    if cell.track in ("reconstruction", "adversarial", "attribution"):
        real = lab.images(cell, "test", lab.data(cell).select("test", cell.images)[: len(made)]).cpu()
        gap = torch.ones(len(made), 3, 1, made.shape[3])
        made = torch.cat([real.expand(-1, 3, -1, -1), gap, made], dim=2)
    return made


def tiled(pictures: Tensor, columns: int, captions: Sequence[str] = ()) -> Image.Image:
    """(n, 3, h, w) pictures in rows of ``columns``, white lines between them, each below its caption if it has one."""
    if pictures.shape[3] > WIDEST:
        height = round(pictures.shape[2] * WIDEST / pictures.shape[3])
        pictures = F.interpolate(pictures, (height, WIDEST), mode="area")
    elif pictures.shape[3] < SMALLEST:
        pictures = F.interpolate(pictures, scale_factor=2, mode="nearest")
    count, _, height, width = pictures.shape
    columns, head = min(columns, count), CAPTION if captions else 0
    rows = math.ceil(count / columns)
    canvas = torch.ones(3, rows * (head + height + 2), columns * (width + 2))
    places = [
        (number // columns * (head + height + 2) + head + 1, number % columns * (width + 2) + 1)
        for number in range(count)
    ]
    for picture, (top, left) in zip(pictures, places, strict=True):
        canvas[:, top : top + height, left : left + width] = picture
    sheet = Image.fromarray(eight_bit(canvas.permute(1, 2, 0).numpy()))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for caption, (top, left) in zip(captions, places, strict=False):
        draw.text((left, top - head), _fitting(caption, font, width), fill="black", font=font)
    return sheet


def _fitting(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The words, or as many of their letters as are no wider than ``width`` pixels."""
    if font.getlength(words) <= width:
        return words
    return next((cut for end in range(len(words), 0, -1) if font.getlength(cut := f"{words[:end]}…") <= width), "")


def save_sheet(picture: Image.Image, rows: int, path: Path) -> None:
    """Write it, and in it how many rows it has: a suite's sheet may show the first ones only."""
    note = PngInfo()
    note.add_text("rows", str(rows))
    content = io.BytesIO()
    picture.save(content, format="PNG", pnginfo=note)
    path.write_bytes(content.getvalue())


def _scaled(maps: Tensor) -> Tensor:
    """(n, H, W) maps → (n, 1, H, W) in [0, 1], each by its own smallest and largest value."""
    flat = maps.flatten(1)
    low, high = flat.min(1).values[:, None, None], flat.max(1).values[:, None, None]
    return ((maps - low) / (high - low).clamp_min(1e-12))[:, None]


def suite_sheets(plan: Plan, store: Store) -> list[Path]:
    """Pictures of each subject, condition, method and variant (its first seed) under each other.

    One of what was made for each track; for each of its subjects one through transparency maps, two of where its
    images lie among real ones, and one of its calculation paths, as far as its cells have them.
    """
    folder = store.board(plan.suite.board) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, title, kind, cells in _sheets(plan):
        rows = _rows(kind, cells, store)
        if rows:
            made.append(_stacked(title, rows, folder / f"{name}.png"))
    return made


def _sheets(plan: Plan) -> Iterator[tuple[str, str, str, list[Cell]]]:
    """(file's stem, title, kind of a cell's picture, cells) of every sheet that there may be."""
    for track in plan.suite.track_names:
        cells = _by_task([cell for cell in plan.wanted if cell.track == track])
        yield track, track, "contact_sheet", cells
        for subject in dict.fromkeys(cell.subject for cell in cells):
            own = [cell for cell in cells if cell.subject == subject]
            for kind in ("masked_sheet", "nearest_farthest", "feature_space", "paths"):
                what = kind.removesuffix("_sheet")
                title = TITLES.get(kind, what.replace("_", " "))
                yield f"{track}_{what}_{subject}", f"{track} · {subject} · {title}", kind, own


def _by_task(cells: Sequence[Cell]) -> list[Cell]:
    """Rivals under each other, whatever blocks of the suite they stand in; else in the suite's order."""
    order = {task: place for place, task in enumerate(dict.fromkeys(map(_task, cells)))}
    return sorted(cells, key=lambda cell: order[_task(cell)])


def _task(cell: Cell) -> tuple[str, str, str]:
    return cell.dataset, cell.subject, cell.condition


def _rows(kind: str, cells: Iterable[Cell], store: Store) -> dict[str, Image.Image]:
    """Name of each row → the first rows of its first cell's picture of that kind, where there is one."""
    found: dict[str, Image.Image] = {}
    for cell in cells:
        name = str(dataclasses.replace(cell, seed=0)).removeprefix(f"{cell.track} · ").removesuffix(" · seed 0")
        path = store.cell(cell.key) / "artifacts" / f"{kind}.png"
        if name not in found and path.is_file():
            with Image.open(path) as picture:
                rows = int(picture.info.get("rows", math.ceil(min(SHOWN, cell.images) / COLUMNS)))
                found[name] = _first_rows(picture.convert("RGB"), rows, ROOM.get(kind, SHEET_ROW))
    return found


def _first_rows(sheet: Image.Image, rows: int, room: int = SHEET_ROW) -> Image.Image:
    """As many of a sheet's ``rows`` of pictures as the suite's sheet has room for, but never part of one."""
    height = sheet.height // rows
    return sheet.crop((0, 0, sheet.width, min(sheet.height, height * max(1, room // height))))


def _stacked(title: str, rows: Mapping[str, Image.Image], path: Path) -> Path:
    """Sheets under each other, each with its name above its first row of pictures."""
    font, large = ImageFont.load_default(15), ImageFont.load_default(20)
    words = [large.getlength(title), *map(font.getlength, rows)]
    width = max(640, *(strip.width for strip in rows.values()), *map(math.ceil, words)) + 16
    canvas = Image.new("RGB", (width, 40 + sum(strip.height + 34 for strip in rows.values())), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((8, 8), title, fill="black", font=large)
    top = 40
    for name, strip in rows.items():
        draw.text((8, top), name, fill="black", font=font)
        canvas.paste(strip, (8, top + 22))
        top += strip.height + 34
    content = io.BytesIO()
    canvas.save(content, format="PNG")
    write_atomic(path, content.getvalue())
    return path
