"""Where the images of an inversion lie among real ones of their class, as the referee sees them: two pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bench.contract import Undefined
from bench.execute.lab import Lab
from bench.execute.measure import Roles
from bench.execute.pictures import save_sheet, tiled
from bench.ops import check_finite
from bench.plan.cells import Cell
from bench.record import Cost

Points = NDArray[np.float64]

CLASSES = 10  # in a picture, the first that were asked for
SHOWN = 5  # nearest and farthest images of a class
MOST = 300  # points of one side
FEWEST = 30  # points that t-SNE is asked for
DIMENSIONS = 50  # principal components that t-SNE sees
PERPLEXITY = 30

SIDE = 440  # pixels of a panel
GAP = 16
FINE = 3  # times larger while it is drawn: smooth edges
GREY = "#666666"
CODES = "1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2", "7f7f7f", "bcbd22", "17becf"
COLOURS = [f"#{code}" for code in CODES]
CAUTION = "t-SNE is a picture, not a metric: sizes of its islands and the gaps between them mean nothing."


@dataclass(frozen=True)
class Sides:
    """What is drawn: roles as metrics know them, and the classes' names in their order."""

    generated: Tensor
    referee_features: Tensor
    labels: Tensor
    real: Tensor
    real_referee_features: Tensor
    real_labels: Tensor
    names: Mapping[int, str]


def draw_features(cell: Cell, lab: Lab, artifacts: Mapping[str, Tensor], folder: Path) -> str:
    """Save ``nearest_farthest.png`` and ``feature_space.png`` of an inversion in ``folder``.

    Returns:
        Why there is no picture where one could be expected; empty where there is, or where no track asks for one.

    Raises:
        OSError: it cannot be written.
        ShapeError: some feature is not finite.
    """
    if cell.track != "inversion":
        return ""
    sides = _sides(cell, lab, artifacts)
    if isinstance(sides, Undefined):
        return sides.reason
    bands = nearest_farthest(sides)
    save_sheet(_below_each_other(bands), len(bands), folder / "nearest_farthest.png")
    title, features = str(cell).removeprefix(f"{cell.track} · "), f"penultimate features of the referee {cell.judge}"
    save_sheet(feature_space(sides, title, features), 1, folder / "feature_space.png")
    return ""


def _sides(cell: Cell, lab: Lab, artifacts: Mapping[str, Tensor]) -> Sides | Undefined:
    """The cell's images and features, those of the first classes that were asked for and have real images."""
    roles = Roles(cell, lab, artifacts, Cost(), {})  # where a metric took features, no network looks again
    found: dict[str, Any] = {}
    for name in ("generated", "referee_features", "labels", "real", "real_referee_features", "real_labels"):
        found[name] = roles.get(name)
        if isinstance(found[name], Undefined):
            return found[name]  # type: ignore[no-any-return]
    check_finite(**{name: found[name] for name in ("referee_features", "real_referee_features")})
    there = set(found["real_labels"].tolist())
    asked = [label for label in dict.fromkeys(found["labels"].tolist()) if label in there][:CLASSES]
    if not asked:
        return Undefined("no class that was asked for has a real image")
    known = lab.data(cell).card.class_names
    return Sides(**found, names={label: known[label] if known else f"class {label}" for label in asked})


# ---- nearest and farthest ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extremes:
    """Places of images of one class: the nearest to real ones, nearest first, and the farthest, farthest first.

    Args:
        partners, far_partners: the place of the nearest real image of each.
    """

    near: Tensor
    far: Tensor
    partners: Tensor
    far_partners: Tensor


def extremes(features: Tensor, real_features: Tensor, most: int) -> Extremes:
    """By Euclidean distance to the nearest real image; no image is both near and far.

    Args:
        features, real_features: (N, D) and (M, D) of one class, M ≥ 1.
        most: of each kind; fewer where N is less than twice that.
    """
    distances = torch.cdist(
        features.double(), real_features.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )  # (N, M)
    nearest, partner = distances.min(1)
    order = nearest.argsort(stable=True)
    count = len(features)
    near, far = order[: min(most, (count + 1) // 2)], order.flip(0)[: min(most, count // 2)]
    return Extremes(near, far, partner[near], partner[far])


def nearest_farthest(sides: Sides) -> list[Image.Image]:
    """One band a class: the inversions nearest to real images and those farthest, each above its nearest real image."""
    return [_band(sides, label) for label in sides.names]


def _band(sides: Sides, label: int) -> Image.Image:
    ours, theirs = sides.labels == label, sides.real_labels == label
    found = extremes(sides.referee_features[ours], sides.real_referee_features[theirs], SHOWN)
    generated, real = sides.generated[ours].cpu(), sides.real[theirs].cpu()
    blocks = [
        _pairs(generated[made.cpu()], real[partners.cpu()])
        for made, partners in ((found.near, found.partners), (found.far, found.far_partners))
    ]
    head, left = 24, 96
    width, height = blocks[0].size
    band = Image.new("RGB", (left + 2 * width + GAP, head + height + 6), "white")
    draw, font, small = ImageDraw.Draw(band), ImageFont.load_default(14), ImageFont.load_default(12)
    for place, (block, words) in enumerate(zip(blocks, ("nearest to real images", "farthest"), strict=True)):
        start = left + place * (width + GAP)
        band.paste(block, (start, head))
        draw.text((start + 1, 5), f"{_short(sides.names[label])}: {words}", fill="black", font=font)
    for row, words in enumerate(("inversion", "nearest real")):
        draw.text((8, head + height * (1 + 2 * row) // 4), words, fill=GREY, font=small, anchor="lm")
    return band


def _pairs(upper: Tensor, lower: Tensor) -> Image.Image:
    """Pictures above each other in ``SHOWN`` columns; columns without one stay white."""
    count, _, height, width = upper.shape
    pairs = torch.ones(SHOWN, 3, 2 * height + 1, width)
    pairs[:count, :, :height], pairs[:count, :, height + 1 :] = upper, lower
    return tiled(pairs, SHOWN)


def _below_each_other(bands: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (bands[0].width, sum(band.height for band in bands)), "white")
    for place, band in enumerate(bands):
        sheet.paste(band, (0, place * band.height))
    return sheet


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


# ---- feature space -------------------------------------------------------------------------------------------------


def feature_space(sides: Sides, title: str, features: str) -> Image.Image:
    """Real images and inversions as points, by their principal components and by t-SNE side by side.

    At most ``MOST`` points of each side, the first of them. Both maps are made of both sides at once.
    """
    ours, theirs = (_first_of(labels, sides.names) for labels in (sides.labels, sides.real_labels))
    rows = torch.cat([sides.real_referee_features[theirs], sides.referee_features[ours]]).double().cpu().numpy()
    labels = torch.cat([sides.real_labels[theirs], sides.labels[ours]]).tolist()
    place = {label: COLOURS[number] for number, label in enumerate(sides.names)}
    colours = [place[label] for label in labels]
    components, shares = principal_components(rows)
    panels = {f"PCA: {shares[0]:.0%} and {shares[1]:.0%} of the variance": components[:, :2]}
    if len(rows) < FEWEST or not components.any():
        panels[f"t-SNE needs {FEWEST} points that are not all equal"] = np.zeros((0, 2))
    else:
        perplexity = min(PERPLEXITY, (len(rows) - 1) // 3)
        panels[f"t-SNE: perplexity {perplexity}, seed 0"] = t_sne(components, perplexity)
    drawn = {caption: _panel(points, colours, len(theirs)) for caption, points in panels.items()}
    return _framed(drawn, title, features, sides.names, (len(theirs), len(ours)))


def _first_of(labels: Tensor, names: Mapping[int, str]) -> Tensor:
    """Places of the first images of the classes that are drawn."""
    return torch.isin(labels, torch.tensor(list(names), device=labels.device)).nonzero()[:MOST, 0]


def principal_components(rows: Points) -> tuple[Points, tuple[float, float]]:
    """(N, d) the rows along their principal components, 2 ≤ d ≤ 50, and the first two's shares of the variance."""
    from sklearn.decomposition import PCA

    if not rows.std(0).any():  # one point, or all of them the same
        return np.zeros((len(rows), 2)), (0.0, 0.0)
    fitted = PCA(n_components=min(DIMENSIONS, *rows.shape), svd_solver="full")
    found = fitted.fit_transform(rows)
    missing = max(0, 2 - found.shape[1])
    first, second = np.pad(fitted.explained_variance_ratio_, (0, missing))[:2]
    return np.pad(found, ((0, 0), (0, missing))), (float(first), float(second))


def t_sne(components: Points, perplexity: float) -> Points:
    """(N, 2) a map that keeps neighbours together, the same for the same rows on one machine.

    van der Maaten & Hinton 2008, as scikit-learn computes it, from the principal components.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn needs it

    with threadpool_limits(1):  # threads would add in an order of their own
        found: Points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(components)
    return found.astype(np.float64)


def _panel(points: Points, colours: Sequence[str], real: int) -> Image.Image:
    """A square with a frame; the first ``real`` points are circles, the others crosses on top of them."""
    size = SIDE * FINE
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    if len(points):
        low, high = points.min(0), points.max(0)
        scale = 0.92 * size / max(float((high - low).max()), 1e-12)  # one for both axes: distances are not bent
        places = (points - (low + high) / 2) * (scale, -scale) + size / 2
        for number, ((x, y), colour) in enumerate(zip(places.tolist(), colours, strict=True)):
            _mark(draw, x, y, colour, is_real=number < real)
    draw.rectangle((0, 0, size - 1, size - 1), outline="#bbbbbb", width=FINE)
    return picture.reduce(FINE)


def _mark(draw: ImageDraw.ImageDraw, x: float, y: float, colour: str, *, is_real: bool, fine: int = FINE) -> None:
    reach = 3.5 * fine
    if is_real:
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour, width=fine)
    else:
        for sign in (-1, 1):
            draw.line((x - reach, y - sign * reach, x + reach, y + sign * reach), fill=colour, width=2 * fine)


def _framed(
    panels: Mapping[str, Image.Image],
    title: str,
    features: str,
    names: Mapping[int, str],
    counts: tuple[int, int],
) -> Image.Image:
    """The panels side by side, the title above them, below them what marks and colours mean."""
    top, width = 72, 2 * SIDE + 3 * GAP
    picture = Image.new("RGB", (width, top + SIDE + 96), "white")
    draw, font, small = ImageDraw.Draw(picture), ImageFont.load_default(14), ImageFont.load_default(12)
    draw.text((GAP, 8), title, fill="black", font=ImageFont.load_default(16))
    draw.text((GAP, 30), features, fill=GREY, font=small)
    for place, (caption, panel) in enumerate(panels.items()):
        left = GAP + place * (SIDE + GAP)
        draw.text((left, 50), caption, fill="black", font=font)
        picture.paste(panel, (left, top))
    _legend(picture, top + SIDE + 10, names, counts)
    draw.text((GAP, top + SIDE + 76), CAUTION, fill=GREY, font=small)
    return picture


def _legend(picture: Image.Image, top: int, names: Mapping[int, str], counts: tuple[int, int]) -> None:
    """Marks in the first column, colours in five more."""
    column, fine = (picture.width - GAP) // 6, Image.new("RGB", (picture.width * FINE, 64 * FINE), "white")
    draw, font = ImageDraw.Draw(fine), ImageFont.load_default(12 * FINE)
    marks = [(f"real ({counts[0]})", True), (f"inverted ({counts[1]})", False)]
    for row, (words, is_real) in enumerate(marks):
        x, y = _spot(0, row, column)
        _mark(draw, x, y, "black", is_real=is_real)
        draw.text((x + 12 * FINE, y), words, fill="black", font=font, anchor="lm")
    for number, (name, colour) in enumerate(zip(names.values(), COLOURS, strict=False)):
        x, y = _spot(1 + number % 5, number // 5, column)
        draw.rectangle((x - 5 * FINE, y - 5 * FINE, x + 5 * FINE, y + 5 * FINE), fill=colour)
        draw.text((x + 12 * FINE, y), _short(name), fill="black", font=font, anchor="lm")
    picture.paste(fine.reduce(FINE), (0, top))


def _spot(across: int, down: int, column: int) -> tuple[int, int]:
    return (GAP + 6 + across * column) * FINE, (12 + 24 * down) * FINE
