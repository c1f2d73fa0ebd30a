"""Pictures at full size: rounded, named after what they aim at, and never written over."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.contract import SetupError
from bench.execute import full_size
from bench.execute.full_size import Written, eight_bit, picture_of, stretched, targets_in_turn, write_pictures
from bench.execute.tracks import stored_tensors
from bench.plan.cells import Cell
from bench.record import TENSORS, IndexedCell
from metrics.same_class_rmse import same_class_rmse
from tests.execute import tiny
from tests.execute.conftest import Finished
from tests.execute.test_pictures import with_transparency

HALF_A_LEVEL = 0.5 / 255


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def written(finished: Finished, folder: Path, *cells: Cell) -> Written:
    listed = finished.store.read_index("tiny").cells
    keys = {cell.key for cell in cells}
    return write_pictures(finished.store, listed, [one for one in listed if not keys or one.key in keys], folder)


# ---- how an image is shown -----------------------------------------------------------------------------------------


def test_eight_bits_are_the_nearest_and_on_average_neither_darker_nor_brighter():
    images = drawn(4, 3, 64, 64)
    off = eight_bit(images) / 255 - images.astype(np.float64)
    assert np.abs(off).max() <= HALF_A_LEVEL
    assert abs(off.mean()) < HALF_A_LEVEL / 50  # truncation is off by half a level
    assert eight_bit(np.array([0.0, 1.0])).tolist() == [0, 255]


def by_definition(image: np.ndarray) -> np.ndarray:
    """Cut at the 1st and 99th percentile (linear between the two nearest values) and spread, in plain loops."""
    values = sorted(float(value) for value in image.flatten())
    low, high = (
        values[int(place)] + (place - int(place)) * (values[int(place) + 1] - values[int(place)])
        for place in (q * (len(values) - 1) for q in (0.01, 0.99))
    )
    spread = [(min(max(float(value), low), high) - low) / (high - low) for value in image.flatten()]
    return np.array(spread).reshape(image.shape)


def test_each_image_is_stretched_between_its_own_percentiles():
    images = drawn(3, 3, 7, 5) * np.array([1, 0.1, 0.5], np.float32)[:, None, None, None]
    found = stretched(images)
    for image, one in zip(images, found, strict=True):
        np.testing.assert_allclose(one, by_definition(image), atol=1e-5)
    assert found.dtype == np.float32 and found.min() == 0 and found.max() == 1


def test_an_image_of_one_colour_is_shown_as_it_is():
    flat = np.full((1, 3, 4, 4), 0.3, np.float32)
    both = stretched(np.concatenate([flat, drawn(1, 3, 4, 4)]))
    assert (both[0] == flat[0]).all() and np.isfinite(both).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grey_stays_grey_and_an_alpha_makes_both_rgba(channels, mode):
    image, alpha = drawn(channels, 5, 6), drawn(5, 6)
    assert picture_of(image).mode == mode and picture_of(image).size == (6, 5)
    seen = np.asarray(picture_of(image, alpha))
    assert seen.shape == (5, 6, 4)
    assert np.abs(seen[:, :, 3] / 255 - alpha).max() <= HALF_A_LEVEL
    for channel in range(3):
        assert np.abs(seen[:, :, channel] / 255 - image[channel % channels]).max() <= HALF_A_LEVEL


@pytest.mark.parametrize(
    ("track", "condition", "asked", "found"),
    [
        ("visualization", "class", [4, 2], ("class", [4, 2])),
        ("visualization", "class", None, ("class", [0, 1, 2])),
        ("inversion", "", None, ("class", [0, 1, 2])),
        ("visualization", "channel_layer1", [7], ("channel", [7])),
        ("visualization", "channel_layer1", None, ("channel", [])),
        ("adversarial", "linf_8_255", None, ("", [])),
    ],
)
def test_images_aim_at_what_the_suite_asked_for_in_turn(track, condition, asked, found):
    kind, targets = targets_in_turn(track, condition, asked, 3)
    assert (kind, list(targets)) == found


# ---- the files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_reference", "name"), [(False, "000_channel7.png"), (True, "000.png")])
def test_real_images_beside_a_channels_are_not_named_after_it(finished: Finished, is_reference: bool, name: str):
    record = finished.store.read(tiny.find(finished.plan, "visualization").key)
    who = record.identity.model_copy(update={"condition": "channel_hidden1"})
    spec = {**record.spec, "targets": [7]}
    changed = record.model_copy(update={"identity": who, "spec": spec, "is_reference": is_reference})
    assert next(full_size._pictures(finished.store, changed))[0] == name


@pytest.mark.parametrize("track", ["visualization", "adversarial"])
def test_judging_the_files_is_judging_the_images_within_half_a_level(finished: Finished, tmp_path: Path, track: str):
    cell = tiny.find(finished.plan, track, "pixel_ascent" if track == "visualization" else "pgd")
    assert written(finished, tmp_path, cell) == Written(new=10, known=0, cells=1)
    images = stored_tensors(finished.store, cell.key)["generated"]
    files = sorted(tmp_path.rglob("*.png"))
    levels = np.stack([read(path) for path in files])
    assert levels.dtype == np.uint8 and levels.shape == tuple(images[:, 0].shape), "the digits are grey"
    seen = torch.from_numpy(levels[:, None] / 255)
    assert (seen - images.double()).abs().max() <= HALF_A_LEVEL
    apart = same_class_rmse(generated=seen.float()) - same_class_rmse(generated=images)
    assert abs(apart) <= 2 * HALF_A_LEVEL, "both images of a pair moved by no more than half a level"


def test_files_are_named_in_order_after_the_cell_and_the_class(finished: Finished, tmp_path: Path):
    cell = tiny.find(finished.plan, "visualization")
    written(finished, tmp_path, cell)
    names = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.png"))]
    folder = "visualization/mlp.digits.sgd/class/pixel_ascent/seed0"
    assert names == [f"{folder}/{number:03}_class{number}.png" for number in range(10)]


def test_every_cell_that_made_images_has_them_and_no_other_has_a_folder(finished: Finished, tmp_path: Path):
    counted = written(finished, tmp_path)
    makers = [cell for cell in finished.plan.wanted if "generated" in stored_tensors(finished.store, cell.key)]
    assert {cell.track for cell in makers} == {"reconstruction", "inversion", "visualization", "adversarial"}
    assert counted == Written(new=sum(cell.images for cell in makers), known=0, cells=len(makers))
    assert len(list(tmp_path.rglob("*.png"))) == counted.new
    assert len(list(tmp_path.rglob("seed0"))) == counted.cells


def test_a_transparency_map_gives_each_image_a_masked_twin(finished: Finished, tmp_path: Path):
    copy, cell = with_transparency(finished, tmp_path / "copy")
    assert written(copy, tmp_path / "to", cell) == Written(new=20, known=0, cells=1)
    files = sorted((tmp_path / "to").rglob("*.png"))
    images = stored_tensors(copy.store, cell.key)["generated"].numpy()
    for image, plain, twin in zip(images, files[::2], files[1::2], strict=True):
        assert twin.name == f"{plain.stem}_masked.png"
        colours, alpha = read(twin)[:, :, :3], read(twin)[:, :, 3]
        width = alpha.shape[1]
        assert (alpha[:, : width // 2] == 0).all() and (alpha[:, width // 2 :] == 255).all()
        assert np.abs(colours / 255 - by_definition(image).transpose(1, 2, 0)).max() <= HALF_A_LEVEL + 1e-6


def test_a_second_time_writes_only_what_is_not_there(finished: Finished, tmp_path: Path):
    cell = tiny.find(finished.plan, "visualization")
    written(finished, tmp_path, cell)
    files = sorted(tmp_path.rglob("*.png"))
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    assert written(finished, tmp_path, cell) == Written(new=0, known=10, cells=1)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before
    files[3].unlink()
    assert written(finished, tmp_path, cell) == Written(new=1, known=9, cells=1)
    assert [path.read_bytes() for path in files] == [content for content, _ in before]


@pytest.mark.parametrize("content", ["another picture", "no picture"])
def test_a_file_that_is_something_else_stays_and_nothing_is_written(finished: Finished, tmp_path: Path, content: str):
    cell = tiny.find(finished.plan, "visualization")
    written(finished, tmp_path, cell)
    files = sorted(tmp_path.rglob("*.png"))
    files[2].unlink()
    if content == "another picture":
        Image.new("L", (28, 28)).save(files[7])
    else:
        files[7].write_text(content, encoding="utf-8")
    kept = files[7].read_bytes()
    with pytest.raises(SetupError, match=r"007_class7.png is another picture\n  remove it, or name another folder"):
        written(finished, tmp_path)
    assert files[7].read_bytes() == kept and not files[2].exists()
    assert len(list(tmp_path.rglob("*.png"))) == 9


def test_a_file_in_place_of_a_folder_is_refused(finished: Finished, tmp_path: Path):
    (tmp_path / "visualization").write_text("mine", encoding="utf-8")
    with pytest.raises(SetupError, match="visualization is no folder"):
        written(finished, tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "visualization"]


def test_a_damaged_cell_is_named_and_nothing_is_written(finished: Finished, tmp_path: Path):
    copy = finished.copy(tmp_path / "copy")
    cell = tiny.find(copy.plan, "visualization")
    tensors = copy.store.cell(cell.key) / TENSORS
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\0")
    with pytest.raises(SetupError, match=rf"{cell.key}: .*\n  run its suite again"):
        written(copy, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_cells_of_one_name_are_told_by_their_keys(finished: Finished, tmp_path: Path):
    one, other = (tiny.find(finished.plan, "inversion", name) for name in ("noise_search", "pixel_ascent"))
    (named,) = [cell for cell in finished.store.read_index("tiny").cells if cell.key == one.key]
    twins = [named, IndexedCell(key=other.key, identity=named.identity)]
    counted = write_pictures(finished.store, twins, twins, tmp_path)
    assert counted.new == one.images + other.images
    assert {path.name for path in tmp_path.rglob("seed0*")} == {f"seed0_{one.key}", f"seed0_{other.key}"}


def test_writing_them_loads_no_torch(finished: Finished, tmp_path: Path):
    script = (
        "import sys, run_bench\n"
        "try:\n    run_bench.main()\n"
        "finally:\n    print('LOADED', [name for name in ('torch', 'pandas', 'timm') if name in sys.modules])"
    )
    words = ["pictures", finished.suite, "--store", finished.folder / "store", "--to", tmp_path / "to"]
    said = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "64 written, 0 there already; of 7 cells" in said and said.endswith("LOADED []\n"), said
