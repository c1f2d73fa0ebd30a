"""Where inversions lie among real images: who is nearest, what the two maps show, and what becomes of them."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.contract import ShapeError
from bench.execute import feature_space as drawing
from bench.execute.cell import Run, run_cell
from bench.execute.feature_space import CLASSES, FEWEST, MOST, SHOWN, Sides, draw_features, extremes, feature_space
from bench.execute.lab import Lab
from bench.execute.pictures import suite_sheets
from bench.execute.tracks import stored_tensors
from bench.plan.cells import Cell
from bench.record import StoreFull
from tests.execute import tiny
from tests.execute.conftest import Finished

NAMES = ("nearest_farthest.png", "feature_space.png")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def toy_sides(count: int = 40, references: int = 50, classes: int = 3, features: int = 6, side: int = 8) -> Sides:
    """Classes lie apart, and inversions beside the real images of their class."""
    labels, real_labels = torch.arange(count) % classes, torch.arange(references) % classes
    centres = 10 * drawn(classes, features, seed=1)
    return Sides(
        generated=drawn(count, 1, side, side, seed=2).sigmoid(),
        referee_features=centres[labels] + 3 + drawn(count, features, seed=3),
        labels=labels,
        real=drawn(references, 1, side, side, seed=4).sigmoid(),
        real_referee_features=centres[real_labels] + drawn(references, features, seed=5),
        real_labels=real_labels,
        names={label: f"class {label}" for label in range(classes)},
    )


# ---- nearest and farthest ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "near", "far"), [(12, 5, 5), (10, 5, 5), (7, 4, 3), (2, 1, 1), (1, 1, 0)])
def test_the_extremes_are_those_of_plain_loops(count: int, near: int, far: int):
    made, real = drawn(count, 4), drawn(6, 4, seed=1)
    table = [[sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) for b in real.tolist()] for a in made.tolist()]
    order = sorted(range(count), key=lambda place: min(table[place]))
    found = extremes(made, real, 5)
    assert found.near.tolist() == order[:near]
    assert found.far.tolist() == order[::-1][:far]
    for places, partners in ((found.near, found.partners), (found.far, found.far_partners)):
        assert partners.tolist() == [table[place].index(min(table[place])) for place in places.tolist()]


def test_equally_near_images_come_in_their_order():
    found = extremes(torch.ones(6, 3), torch.zeros(2, 3), 2)
    assert (found.near.tolist(), found.far.tolist()) == ([0, 1], [5, 4])


def test_a_band_shows_the_images_above_their_partners():
    sides = toy_sides(classes=1, side=48)  # shown as they are, white lines around them
    (band,) = drawing.nearest_farthest(sides)
    shown = torch.from_numpy(np.array(band)).permute(2, 0, 1)[0].float() / 255
    found = extremes(sides.referee_features, sides.real_referee_features, SHOWN)
    made = torch.cat([found.near, found.far]).tolist()
    real = torch.cat([found.partners, found.far_partners]).tolist()
    windows = shown.unfold(0, 97, 1).unfold(1, 48, 1)
    for upper, lower in zip(made, real, strict=True):
        pair = torch.cat([sides.generated[upper, 0], torch.ones(1, 48), sides.real[lower, 0]])
        assert (windows - pair).abs().amax((2, 3)).min() <= 0.5 / 255 + 1e-6


def test_every_class_has_a_band_of_one_size_however_few_its_images():
    sides = toy_sides(count=7)
    bands = drawing.nearest_farthest(sides)
    assert len(bands) == 3
    assert len({band.size for band in bands}) == 1


# ---- the two maps --------------------------------------------------------------------------------------------------


def test_principal_components_are_those_of_the_covariance():
    rows = drawn(30, 5).double().numpy() * np.array([5, 3, 1, 0.5, 0.1])
    found, shares = drawing.principal_components(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    assert shares == pytest.approx((values[-1] / values.sum(), values[-2] / values.sum()))
    by_hand = (rows - rows.mean(0)) @ vectors[:, ::-1][:, :2]
    assert np.abs(found[:, :2]) == pytest.approx(np.abs(by_hand), abs=1e-10)


@pytest.mark.parametrize("shape", [(5, 1), (1, 4), (2, 3)])
def test_few_points_and_few_features_still_have_two_coordinates(shape: tuple[int, int]):
    found, shares = drawing.principal_components(drawn(*shape).double().numpy())
    assert found.shape == (shape[0], 2)
    assert np.isfinite(found).all() and np.isfinite(shares).all()


def test_equal_points_have_no_spread():
    found, shares = drawing.principal_components(np.ones((4, 3)))
    assert not found.any() and shares == (0, 0)


def test_t_sne_keeps_classes_together_and_gives_the_same_bits_again():
    rows = np.concatenate([drawn(20, 4, seed=seed).double().numpy() + 20 * seed for seed in range(3)])
    found = drawing.t_sne(rows, 10)
    assert np.array_equal(found, drawing.t_sne(rows, 10))
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1) + 1e9 * np.eye(60)
    assert (distances.argmin(1) // 20 == np.arange(60) // 20).all()


def test_the_picture_is_the_same_again_and_another_with_other_features():
    sides = toy_sides()
    pictures = [feature_space(sides, "title", "features").tobytes() for _ in range(2)]
    assert pictures[0] == pictures[1]
    sides.referee_features[0] += 30
    assert feature_space(sides, "title", "features").tobytes() != pictures[0]


def test_a_real_point_is_an_open_circle_and_an_inverted_one_a_cross_up_and_to_the_right_of_it():
    points, colours = np.array([[0.0, 0.0], [1.0, 1.0]]), drawing.COLOURS[:2]
    panel = np.array(drawing._panel(points, colours, 1))
    near, far = round(0.04 * drawing.SIDE), round(0.96 * drawing.SIDE) - 1  # 92 % of the panel lie between the two
    windows = {
        "real": panel[far - 6 : far + 7, near - 6 : near + 7],
        "made": panel[near - 6 : near + 7, far - 6 : far + 7],
    }
    for window, colour in zip(windows.values(), colours, strict=True):
        assert (window == tuple(bytes.fromhex(colour[1:]))).all(-1).any()
    assert windows["real"][6, 6].min() > 240, "the circle's middle is empty"
    assert windows["made"][6, 6].min() < 100, "the cross's is not"


@pytest.mark.parametrize("fault", ["few", "equal"])
def test_what_no_map_can_be_made_of_leaves_its_panel_empty(fault: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawing, "t_sne", lambda *_: pytest.fail("t-SNE was asked"))
    sides = toy_sides(count=6, references=FEWEST - 7)
    if fault == "equal":
        sides = toy_sides()
        sides.referee_features.fill_(1.0)
        sides.real_referee_features.fill_(1.0)
    assert feature_space(sides, "title", "features").size[0] > 800


def test_no_more_points_than_allowed_and_no_other_classes_are_drawn():
    labels = torch.arange(5 * MOST) % (CLASSES + 5)
    chosen = drawing._first_of(labels, dict.fromkeys(range(CLASSES), ""))
    assert len(chosen) == MOST
    assert labels[chosen].bincount().tolist() == [MOST // CLASSES] * CLASSES
    assert chosen.tolist() == sorted(chosen.tolist())


# ---- in a cell -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lab(finished: Finished) -> Lab:
    return Lab(finished.store, None, torch.device("cpu"))


def inversion(finished: Finished) -> Cell:
    return tiny.find(finished.plan, "inversion", "pixel_ascent")


def test_every_inversion_has_both_pictures_and_nothing_else_has(finished: Finished):
    for cell in finished.plan.wanted:
        there = [(finished.store.cell(cell.key) / "artifacts" / name).is_file() for name in NAMES]
        assert there == [cell.track == "inversion"] * 2, str(cell)
        assert "feature_pictures" not in finished.store.read(cell.key).notes


def test_drawing_again_gives_the_same_bytes_and_costs_the_method_nothing(finished: Finished, lab: Lab, tmp_path: Path):
    cell = inversion(finished)
    assert draw_features(cell, lab, stored_tensors(finished.store, cell.key), tmp_path) == ""
    for name in NAMES:
        kept = finished.store.cell(cell.key) / "artifacts" / name
        assert (tmp_path / name).read_bytes() == kept.read_bytes(), name


def test_the_suites_sheets_hold_them_for_each_subject(finished: Finished, tmp_path: Path):
    copy = finished.copy(tmp_path / "copy")
    sheets = {path.name: path for path in suite_sheets(finished.plan, copy.store)}
    subject = inversion(finished).subject
    rows = [cell for cell in finished.plan.wanted if cell.track == "inversion"]
    for name in NAMES:
        sheet = sheets[f"inversion_{name.removesuffix('.png')}_{subject}.png"]
        with Image.open(copy.store.cell(rows[0].key) / "artifacts" / name) as own, Image.open(sheet) as picture:
            shown = own.height if name == "feature_space.png" else 3 * own.height // int(own.info["rows"])
            assert picture.height == 40 + len(rows) * (shown + 34)
    assert not [name for name in sheets if "feature_space" in name and not name.startswith("inversion")]


def run_inversion(finished: Finished, folder: Path, monkeypatch: pytest.MonkeyPatch, problem: Any) -> Any:
    def fails(*_: Any) -> None:
        raise problem

    monkeypatch.setattr(drawing, "feature_space", fails)
    copy = finished.copy(folder / "copy")
    return run_cell(inversion(finished), Lab(copy.store, None, torch.device("cpu")), Run("again", "tiny", "0.1.0"))


def test_a_picture_that_fails_costs_a_line_and_no_number(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    record = run_inversion(finished, tmp_path, monkeypatch, RuntimeError("no ink\nat all"))
    before = finished.store.read(inversion(finished).key)
    assert (record.status, record.error) == ("ok", "")
    assert record.notes["feature_pictures"] == "RuntimeError: no ink"
    timed = ("images_per_second",)
    values = [{one.stem: one.value for one in them.readings if one.stem not in timed} for them in (record, before)]
    assert values[0] == values[1]


def test_a_full_disk_is_no_fault_of_the_picture(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(StoreFull):
        run_inversion(finished, tmp_path, monkeypatch, OSError(errno.ENOSPC, "No space left on device"))


def test_without_a_referee_there_is_a_reason(finished: Finished, lab: Lab, tmp_path: Path):
    plan = tiny.plan_of(tmp_path, referee=None)
    cell = tiny.find(plan, "inversion", "pixel_ascent")
    made = stored_tensors(finished.store, inversion(finished).key)
    assert draw_features(cell, lab, made, tmp_path) == "the suite names no referee"
    assert not [name for name in NAMES if (tmp_path / name).exists()]


def test_features_that_are_not_finite_are_named(finished: Finished, lab: Lab, tmp_path: Path, monkeypatch: Any):
    def seen(roles: Any, name: str, **_: Any) -> Any:
        found = kept(roles, name)
        return found * torch.nan if name == "referee_features" else found

    kept = drawing.Roles.get
    monkeypatch.setattr(drawing.Roles, "get", seen)
    with pytest.raises(ShapeError, match="referee_features should be finite"):
        draw_features(inversion(finished), lab, stored_tensors(finished.store, inversion(finished).key), tmp_path)
