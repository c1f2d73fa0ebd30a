"""Contact sheets: what a method made, as one picture."""

import dataclasses
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from bench.execute.lab import Lab
from bench.plan.cells import Cell, Plan
from bench.record import Store, write_atomic

SHOWN = 40
COLUMNS = 10
TALLEST = 112  # pixels of one picture on a sheet
SMALLEST = 48  # narrower pictures are shown twice as large
SHEET_ROW = 270  # pixels of a cell's sheet that the suite's sheet shows, at most, but for the first row
ROOM = {"nearest_farthest": 450}  # the same of other kinds: three classes of small images


def cell_sheet(cell: Cell, lab: Lab, artifacts: Mapping[str, Tensor], path: Path) -> None:
    """Save a grid of what the cell made; originals stand above their copies where the track pairs them.

    Tracks that make no pictures (training, detection) get no sheet.
    """
    strip = cell_strip(cell, lab, artifacts, SHOWN)
    if strip is not None:
        tiled(strip, COLUMNS).save(path)


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


def tiled(pictures: Tensor, columns: int) -> Image.Image:
    """(n, 3, h, w) pictures in rows of ``columns``, white lines between them."""
    if pictures.shape[2] > 2 * TALLEST:
        pictures = F.interpolate(pictures, scale_factor=TALLEST / pictures.shape[3], mode="area")
    elif pictures.shape[3] < SMALLEST:
        pictures = F.interpolate(pictures, scale_factor=2, mode="nearest")
    count, _, height, width = pictures.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    canvas = torch.ones(3, rows * (height + 2), columns * (width + 2))
    for place, picture in enumerate(pictures):
        top, left = (place // columns) * (height + 2) + 1, (place % columns) * (width + 2) + 1
        canvas[:, top : top + height, left : left + width] = picture
    return Image.fromarray((canvas.permute(1, 2, 0) * 255).round().byte().numpy())


def _scaled(maps: Tensor) -> Tensor:
    """(n, H, W) maps → (n, 1, H, W) in [0, 1], each by its own smallest and largest value."""
    flat = maps.flatten(1)
    low, high = flat.min(1).values[:, None, None], flat.max(1).values[:, None, None]
    return ((maps - low) / (high - low).clamp_min(1e-12))[:, None]


def suite_sheets(plan: Plan, store: Store) -> list[Path]:
    """Pictures of each subject, condition, method and variant (its first seed) under each other.

    One of what was made for each track; where a track's images lie among real ones, two for each of its subjects.
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
        cells = [cell for cell in plan.wanted if cell.track == track]
        yield track, track, "contact_sheet", cells
        for subject in dict.fromkeys(cell.subject for cell in cells):
            own = [cell for cell in cells if cell.subject == subject]
            for kind in ("nearest_farthest", "feature_space"):
                yield f"{track}_{kind}_{subject}", f"{track} · {subject} · {kind.replace('_', ' ')}", kind, own


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
    font = ImageFont.load_default(15)
    width = max(max(strip.width for strip in rows.values()), 640) + 16
    canvas = Image.new("RGB", (width, 40 + sum(strip.height + 34 for strip in rows.values())), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((8, 8), title, fill="black", font=ImageFont.load_default(20))
    top = 40
    for name, strip in rows.items():
        draw.text((8, top), name, fill="black", font=font)
        canvas.paste(strip, (8, top + 22))
        top += strip.height + 34
    content = io.BytesIO()
    canvas.save(content, format="PNG")
    write_atomic(path, content.getvalue())
    return path
