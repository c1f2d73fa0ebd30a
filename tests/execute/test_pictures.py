"""Sheets show whole rows of pictures, one target a column below its name, and what a transparency map lets through."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from safetensors.torch import save_file

import run_bench
from bench.execute.lab import Lab
from bench.execute.pictures import (
    CAPTION,
    SHEET_ROW,
    SMALLEST,
    WIDEST,
    _by_task,
    _first_rows,
    _fitting,
    _stacked,
    _target_names,
    cell_sheet,
    masked_strip,
    suite_sheets,
    tiled,
)
from bench.execute.tracks import stored_tensors
from bench.plan.cells import Cell
from bench.record import TENSORS, Store
from tests.execute import tiny
from tests.execute.conftest import Finished


@pytest.mark.parametrize(("row", "rows", "kept"), [(66, 4, 4), (131, 4, 2), (116, 4, 2), (226, 4, 1), (400, 2, 1)])
def test_a_sheet_is_cut_between_two_rows(row, rows, kept):
    cut = _first_rows(Image.new("RGB", (600, row * rows)), rows)
    assert cut.size == (600, row * kept)
    assert cut.height <= SHEET_ROW or kept == 1


# ---- one target a column -------------------------------------------------------------------------------------------


def visualization(targets: list[int] | None, condition: str = "class", *, is_reference: bool = False) -> Any:
    spec = {"targets": targets}
    return SimpleNamespace(track="visualization", condition=condition, spec=spec, is_reference=is_reference)


def laboratory(classes: int, names: tuple[str, ...] | None = None, dataset: str = "toy") -> Any:
    card = SimpleNamespace(name=dataset, num_classes=classes, class_names=names)
    return SimpleNamespace(data=lambda cell: SimpleNamespace(card=card))


def grey(count: int, period: int, side: int = 50) -> torch.Tensor:
    """Image n is of one grey, which says n modulo ``period``: a level of 5 for each."""
    level = (torch.arange(count) % period) * 5 / 255
    return level[:, None, None, None].expand(count, 1, side, side)


@pytest.mark.parametrize(
    ("classes", "targets", "count", "columns"),
    [(10, None, 40, 10), (4, None, 22, 8), (10, [7, 1, 5], 33, 9), (2, None, 7, 10), (6, None, 3, 6)],
)
def test_each_column_shows_one_target_and_the_sheet_says_how_many_rows_it_has(
    tmp_path: Path, classes: int, targets: list[int] | None, count: int, columns: int
):
    asked = len(targets) if targets else classes
    cell_sheet(
        visualization(targets),
        laboratory(classes),
        {"generated": grey(count, asked)},
        path := tmp_path / "contact_sheet.png",
    )
    with Image.open(path) as sheet:
        pixels, rows = np.asarray(sheet)[:, :, 0], int(sheet.info["rows"])
    height = CAPTION + 50 + 2
    assert pixels.shape == (rows * height, min(columns, count) * 52)
    assert (rows - 1) * columns < count <= rows * columns
    for number in range(count):
        top, left = number // columns * height + CAPTION + 1, number % columns * 52 + 1
        assert (pixels[top : top + 50, left : left + 50] == number % columns % asked * 5).all()


def test_more_targets_than_columns_stand_in_their_order(tmp_path: Path):
    cell = visualization(list(range(23)), "channel_layer1")
    cell_sheet(cell, laboratory(10), {"generated": grey(40, 23)}, path := tmp_path / "contact_sheet.png")
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)[:, :, 0]
    shown = pixels[CAPTION + 25 :: CAPTION + 52, 26::52]
    assert (shown.flatten() == np.arange(40) % 23 * 5).all()


@pytest.mark.parametrize(
    ("cell", "lab", "names"),
    [
        (visualization([2, 0]), laboratory(3, ("cat", "dog", "truck")), ["truck", "cat"]),
        (visualization(None), laboratory(2), ["class 0", "class 1"]),
        (visualization([0, 482]), laboratory(1000, dataset="imagenette"), ["tench", "cassette player"]),
        (visualization([12, 3], "channel_layer2"), laboratory(3, ("cat", "dog", "truck")), ["channel 12", "channel 3"]),
        (visualization(None, "channel_layer2"), laboratory(3), []),
        (visualization([1], is_reference=True), laboratory(3, ("cat", "dog", "truck")), ["dog"]),
        (visualization([12, 3], "channel_layer2", is_reference=True), laboratory(3), []),  # any real images
    ],
)
def test_targets_have_the_names_of_their_classes_or_the_numbers_of_their_channels(cell, lab, names):
    assert _target_names(cell, lab) == names


@pytest.mark.parametrize("side", [20, 28, 64, 224])
def test_a_caption_stands_above_its_own_picture_and_goes_no_further(side):
    black = torch.zeros(12, 3, side, side)
    sheet = np.asarray(tiled(black, 6, ["W" * 60, ""] * 6).convert("L"))
    width = sheet.shape[1] // 6
    above = sheet[:CAPTION]
    for column in range(6):
        own = above[:, column * width : (column + 1) * width]
        assert (own < 128).any() == (column % 2 == 0)
        assert (own[:, [0, -1]] == 255).all(), "the white lines between the columns stay white"


def test_a_name_that_is_too_long_is_cut_and_shows_that_it_was():
    font = ImageFont.load_default(11)
    assert _fitting("automobile", font, 64) == "automobile"
    cut = _fitting("American Staffordshire terrier", font, 64)
    assert cut.endswith("…") and "American Staffordshire".startswith(cut[:-1]) and 50 < font.getlength(cut) <= 64
    assert _fitting("automobile", font, 3) == ""


@pytest.mark.parametrize(("side", "shown"), [(28, 56), (47, 94), (64, 64), (112, 112), (224, 112), (299, 112)])
def test_a_picture_on_a_sheet_is_neither_tiny_nor_wider_than_its_share_of_a_page(side, shown):
    assert tiled(torch.zeros(20, 3, side, side), 10).size == (10 * (shown + 2), 2 * (shown + 2))
    assert SMALLEST <= shown <= WIDEST


# ---- the suite's sheet ---------------------------------------------------------------------------------------------


def test_rivals_stand_under_each_other_whatever_block_they_are_from():
    blocks = [("a", "class", "x"), ("b", "class", "x"), ("a", "layer1", "x"), ("a", "class", "y"), ("b", "class", "y")]
    cells: Any = [
        SimpleNamespace(dataset="toy", subject=subject, condition=condition, method=method)
        for subject, condition, method in blocks
    ]
    found = [(cell.subject, cell.condition, cell.method) for cell in _by_task(cells)]
    assert found == [blocks[place] for place in (0, 3, 1, 4, 2)]


def test_a_sheet_is_as_wide_as_its_title_and_its_names(tmp_path: Path):
    strip = Image.new("RGB", (60, 60))
    plain, titled, named = (
        Image.open(_stacked(title, {name: strip}, tmp_path / f"{place}.png"))
        for place, (title, name) in enumerate([("a", "b"), ("W" * 60, "b"), ("a", "W" * 80)])
    )
    assert plain.width == 640 + 16
    for sheet in (titled, named):
        assert sheet.width > plain.width
        assert (np.asarray(sheet.convert("L"))[:, -4:] == 255).all(), "no letter is cut off"


# ---- transparency --------------------------------------------------------------------------------------------------


def test_a_masked_picture_is_white_where_it_is_transparent_and_stretched_where_it_is_not():
    ramp = (0.2 + 0.4 * torch.arange(101) / 100).expand(1, 3, 4, 101)  # percentile p lies at 0.2 + 0.004 p
    alpha = torch.tensor([0.0, 0.25, 1.0, 1.0])[None, :, None].expand(1, 4, 101)
    masked = masked_strip(ramp, alpha)
    display = ((torch.arange(101) - 1) / 98).clamp(0, 1)
    torch.testing.assert_close(masked[0, :, 0], torch.ones(3, 101))
    torch.testing.assert_close(masked[0, :, 1], (0.75 + 0.25 * display).expand(3, 101))
    torch.testing.assert_close(masked[0, :, 2], display.expand(3, 101))


def with_transparency(finished: Finished, folder: Path) -> tuple[Finished, Cell]:
    """The tiny suite with transparency maps in its visualization: the left half is hidden, the right one shown."""
    copy = finished.copy(folder)
    cell, store = tiny.find(copy.plan, "visualization"), copy.store
    record = store.read(cell.key)
    made = stored_tensors(store, cell.key)
    count, _, height, width = made["generated"].shape
    made["transparency"] = (torch.arange(width) >= width // 2).float().expand(count, height, width).contiguous()
    staged = store.stage(cell.key)
    (staged / TENSORS).parent.mkdir()
    save_file(made, staged / TENSORS)
    lab = Lab(store, None, torch.device("cpu"))
    cell_sheet(cell, lab, made, staged / "artifacts" / "contact_sheet.png")
    store.commit(record, store.values(record), staged)
    return copy, cell


def test_a_cell_with_transparency_maps_has_a_masked_sheet_and_no_other_has(finished: Finished, tmp_path: Path):
    copy, cell = with_transparency(finished, tmp_path / "copy")
    for other in copy.plan.wanted:
        artifacts = copy.store.cell(other.key) / "artifacts"
        assert (artifacts / "masked_sheet.png").is_file() == (other.key == cell.key)
    artifacts = copy.store.cell(cell.key) / "artifacts"
    with Image.open(artifacts / "contact_sheet.png") as plain, Image.open(artifacts / "masked_sheet.png") as masked:
        assert (plain.size, plain.info["rows"]) == (masked.size, masked.info["rows"])
        pixels = np.asarray(masked.convert("L"))
    side = pixels.shape[1] // 10 - 2
    first = pixels[CAPTION + 1 : CAPTION + 1 + side, 1 : 1 + side]
    assert (first[:, : side // 2] == 255).all() and (first[:, side // 2 :] < 255).any()


def test_the_suites_masked_sheet_is_on_its_page(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    copy, cell = with_transparency(finished, tmp_path / "copy")
    sheets = suite_sheets(copy.plan, copy.store)
    (masked,) = [path for path in sheets if "masked" in path.name]
    assert masked.name == f"visualization_masked_{cell.subject}.png"
    with Image.open(masked) as picture, Image.open(copy.store.cell(cell.key) / "artifacts/masked_sheet.png") as own:
        assert picture.height == 40 + own.height + 34
    run_bench._publish(Store.open(copy.store.root), "tiny", tmp_path / "boards", None, intervals=False, quiet=True)
    page = (copy.store.board("tiny") / "index.html").read_text(encoding="utf-8")
    assert f'src="pictures/{masked.name}"' in page
