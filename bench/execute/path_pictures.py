"""The calculation paths of one network as a picture: which filters a class uses, and how alike classes' paths are."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.execute.pictures import save_sheet

WIDTH = 1400  # of the picture, unless one layer is wider
FILTER, ROW = 2, 11  # pixels of a filter and of a class in the heat map
CELL = 26  # pixels of a pair of classes in a similarity matrix
GAP, HEAD = 14, 18
GREY, DARK, RED, WHITE = (200, 200, 200), (8, 48, 107), (178, 24, 43), (255, 255, 255)
TITLE = "How often each filter is on for the images of a class that the network gets right"
MATRICES = "How alike the paths of two classes are: cosine of their on-rates, less the mean over classes"

Table = Sequence[Sequence[float | None]]
Colours = NDArray[np.uint8]


def draw_paths(report: Mapping[str, Any], path: Path) -> None:
    """Save the heat map of f(c), layer after layer, above the similarity matrices of an early, a middle and a late one.

    Args:
        report: from ``path_report``.
    """
    names, font = list(report["classes"]), ImageFont.load_default(11)
    left = GAP + math.ceil(max(font.getlength(name) for name in names)) + 6
    bands = [_heat(report["frequencies"], names, left), _matrices(report["similarity"], report["chosen"], names, left)]
    sheet = Image.new("RGB", (max(band.width for band in bands), sum(band.height for band in bands)), "white")
    top = 0
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height
    save_sheet(sheet, 1, path)


# ---- heat map ------------------------------------------------------------------------------------------------------


def _heat(layers: Mapping[str, Table], names: Sequence[str], left: int) -> Image.Image:
    """Layers side by side in as many lines as they need; classes below each other, filters beside each other."""
    pictures = {layer: _enlarged(_shades(table), FILTER, ROW) for layer, table in layers.items()}
    font = ImageFont.load_default(11)
    lines = _lines(
        {layer: max(shown.width, math.ceil(font.getlength(layer))) for layer, shown in pictures.items()}, WIDTH - left
    )
    height = HEAD + ROW * len(names) + GAP
    width = left + max(sum(widths.values()) + GAP * len(widths) for widths in lines)
    band = Image.new("RGB", (max(WIDTH, width), 56 + height * len(lines)), "white")
    draw = ImageDraw.Draw(band)
    draw.text((GAP, 8), TITLE, fill="black", font=ImageFont.load_default(16))
    _legend(band, GAP, 34, _shades([np.linspace(0, 1, 60).tolist()]), "never", "always; grey: no such image")
    for number, widths in enumerate(lines):
        top, x = 56 + number * height, left
        _name_rows(draw, names, left, top + HEAD, ROW)
        for layer, room in widths.items():
            draw.text((x, top + 2), layer, fill="black", font=font)
            shown = pictures[layer]
            band.paste(shown, (x, top + HEAD))
            draw.rectangle((x - 1, top + HEAD - 1, x + shown.width, top + HEAD + shown.height), outline=GREY)
            x += room + GAP
    return band


def _lines(widths: Mapping[str, int], room: int) -> list[dict[str, int]]:
    """The layers in lines no wider than ``room``, but for a line of a single one."""
    lines: list[dict[str, int]] = [{}]
    for layer, width in widths.items():
        if lines[-1] and sum(lines[-1].values()) + GAP * len(lines[-1]) + width > room:
            lines.append({})
        lines[-1][layer] = width
    return lines


# ---- similarity ----------------------------------------------------------------------------------------------------


def _matrices(tables: Mapping[str, Table], chosen: Mapping[str, str], names: Sequence[str], left: int) -> Image.Image:
    """The matrices side by side, classes' names at the left of each and above it."""
    head, side = 66 + left, CELL * len(names)
    band = Image.new("RGB", (max(WIDTH, GAP + (left + side + GAP) * len(tables)), head + side + GAP), "white")
    draw, font = ImageDraw.Draw(band), ImageFont.load_default(13)
    draw.text((GAP, 8), MATRICES, fill="black", font=ImageFont.load_default(16))
    _legend(band, GAP, 34, _signed([np.linspace(-1, 1, 60).tolist()]), "-1", "1; grey: undefined")
    for number, (place, table) in enumerate(tables.items()):
        x = number * (left + side + GAP) + left
        draw.text((x, 50), f"{place}: {chosen[place]}", fill="black", font=font)
        _name_rows(draw, names, x, head, CELL)
        _name_columns(band, names, x, head)
        band.paste(_enlarged(_signed(table), CELL, CELL), (x, head))
    return band


def _name_rows(draw: ImageDraw.ImageDraw, names: Sequence[str], right: int, top: int, step: int) -> None:
    for number, name in enumerate(names):
        place = (right - 5, top + number * step + step // 2)
        draw.text(place, name, fill="black", font=ImageFont.load_default(11), anchor="rm")


def _name_columns(band: Image.Image, names: Sequence[str], left: int, bottom: int) -> None:
    """Names above columns, to be read from below."""
    font = ImageFont.load_default(11)
    for number, name in enumerate(names):
        words = Image.new("RGB", (math.ceil(font.getlength(name)) + 2, CELL), "white")
        ImageDraw.Draw(words).text((0, CELL // 2), name, fill="black", font=font, anchor="lm")
        turned = words.rotate(90, expand=True)
        band.paste(turned, (left + number * CELL, bottom - 4 - turned.height))


# ---- colours -------------------------------------------------------------------------------------------------------


def _shades(table: Table) -> Colours:
    """(rows, columns, 3): white for 0, dark blue for 1, grey for no number."""
    numbers = _numbers(table)
    return _mixed(numbers, np.array(WHITE), np.array(DARK))


def _signed(table: Table) -> Colours:
    """(rows, columns, 3): blue for 1, white for 0, red for −1, grey for no number."""
    numbers = _numbers(table)
    ends = np.where(numbers[..., None] < 0, np.array(RED), np.array(DARK))
    return _mixed(np.abs(numbers), np.array(WHITE), ends)


def _mixed(amounts: NDArray[np.float64], start: NDArray[Any], end: NDArray[Any]) -> Colours:
    mixed = start + np.nan_to_num(amounts)[..., None] * (end - start)
    return np.where(np.isnan(amounts)[..., None], np.array(GREY), mixed).round().astype(np.uint8)


def _numbers(table: Table) -> NDArray[np.float64]:
    return np.array([[math.nan if one is None else one for one in row] for row in table], dtype=np.float64)


def _enlarged(colours: Colours, across: int, down: int) -> Image.Image:
    return Image.fromarray(colours.repeat(down, axis=0).repeat(across, axis=1))


def _legend(band: Image.Image, left: int, top: int, scale: Colours, low: str, high: str) -> None:
    draw, font = ImageDraw.Draw(band), ImageFont.load_default(11)
    draw.text((left, top), low, fill="black", font=font)
    start = left + math.ceil(font.getlength(low)) + 6
    strip = _enlarged(scale, 2, 10)
    band.paste(strip, (start, top + 2))
    draw.rectangle((start - 1, top + 1, start + strip.width, top + 12), outline=GREY)
    draw.text((start + strip.width + 6, top), high, fill="black", font=font)
