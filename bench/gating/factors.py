"""Pictures of which everything is known: one object of known shape, colour, texture and place on noisy grey.

They stand in for Broden (Bau et al. 2017, arXiv:1704.05796), which has such masks for photographs: spec 6.4. All sizes
and numbers are [ours].
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import SetupError, seed_for

GROUND, NOISE = 0.5, 0.06  # mean and standard deviation of what lies around the object
GAP = 0.7  # share of the ground in the parts that a texture leaves out
SMALLEST = 8  # side of a picture, in pixels: below it the shapes are one
RGB = {"red": (1.0, 0.1, 0.1), "green": (0.1, 0.8, 0.1), "blue": (0.1, 0.2, 1.0), "yellow": (1.0, 0.9, 0.1)}
GREY = {"black": (0.0,), "dark": (0.25,), "light": (0.75,), "white": (1.0,)}  # where there are not three channels
SHAPES = ("square", "disc", "triangle", "cross")
TEXTURES = ("plain", "stripes", "checks", "dots")
PLACES = ("upper left", "upper right", "lower left", "lower right")


@dataclass(frozen=True, kw_only=True)
class FactorPictures:
    """N pictures with what is in them. A concept is one level of one factor: "disc", "red", "dots", "upper left"."""

    images: Tensor  # (N, C, H, W) float32 in [0, 1]
    levels: Mapping[str, tuple[str, ...]]  # factor → the names of its levels
    labels: Mapping[str, Tensor]  # factor → (N,) int64 level
    objects: Tensor  # (N, H, W) bool, the pixels of the object, what its texture leaves out included

    @property
    def concepts(self) -> tuple[str, ...]:
        """T names, the levels of one factor after those of another."""
        return tuple(name for names in self.levels.values() for name in names)

    @property
    def present(self) -> Tensor:
        """(N, T) bool, which concepts a picture has: one of each factor."""
        parts = [F.one_hot(self.labels[factor], len(names)) for factor, names in self.levels.items()]
        return torch.cat(parts, 1).bool()

    @property
    def masks(self) -> Tensor:
        """(N, T, H, W) bool: a concept lies where the object is, in the pictures that have it."""
        return self.present[:, :, None, None] & self.objects[:, None]


def factor_pictures(count: int, image_shape: tuple[int, int, int], seed: int = 0) -> FactorPictures:
    """``count`` pictures whose factors are drawn independently, each level as often as the others.

    Args:
        count: N.
        image_shape: (C, H, W). With three channels colours are red, green, blue and yellow, else grey levels.
        seed: equal seeds give equal pictures.

    Raises:
        SetupError: a side is too short for shapes to differ.
    """
    channels, height, width = image_shape
    if min(height, width) < SMALLEST:
        raise SetupError(f"factor pictures need sides of {SMALLEST} pixels or more, got {height} × {width}")
    colours = RGB if channels == 3 else GREY
    levels = {"shape": SHAPES, "colour": tuple(colours), "texture": TEXTURES, "place": PLACES}
    generator = torch.Generator().manual_seed(seed_for("factor pictures", seed))
    labels = {name: torch.randperm(count, generator=generator) % len(of) for name, of in levels.items()}
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    grain = max(1, round(min(height, width) / 16))  # pixels of a texture's cell

    objects = _objects(labels, height, width, generator)
    inked = _textures(rows // grain, columns // grain)[labels["texture"]] & objects  # (N, H, W)
    palette = torch.tensor(list(colours.values())).expand(-1, channels)
    colour = palette[labels["colour"]][:, :, None, None]  # (N, C, 1, 1)
    gap = GAP * GROUND + (1 - GAP) * colour
    images = torch.where(inked[:, None], colour, torch.where(objects[:, None], gap, GROUND))
    images = images + NOISE * torch.randn(images.shape, generator=generator)
    return FactorPictures(images=images.clamp(0, 1), levels=levels, labels=labels, objects=objects)


def _objects(labels: Mapping[str, Tensor], height: int, width: int, generator: torch.Generator) -> Tensor:
    """(N, H, W) bool: an object about a third of the shorter side wide, whole within its quarter of the picture."""
    place, shape = labels["place"], labels["shape"]
    shift = 0.08 * torch.rand(2, len(place), generator=generator) - 0.04
    half = (0.16 + 0.04 * torch.rand(len(place), generator=generator)) * min(height, width)  # pixels
    middle_y = (0.25 + 0.5 * (place // 2) + shift[0]) * height
    middle_x = (0.25 + 0.5 * (place % 2) + shift[1]) * width
    # distance of each pixel's middle from the object's, in half widths
    y = ((torch.arange(height) + 0.5 - middle_y[:, None]) / half[:, None])[:, :, None]
    x = ((torch.arange(width) + 0.5 - middle_x[:, None]) / half[:, None])[:, None, :]
    own = shape[:, None, None]
    square = torch.maximum(y.abs(), x.abs()) <= 1
    disc = y.square() + x.square() <= 1
    triangle = square & (x.abs() <= (y + 1) / 2)
    cross = square & (torch.minimum(y.abs(), x.abs()) <= 1 / 3)
    return torch.where(own == 0, square, torch.where(own == 1, disc, torch.where(own == 2, triangle, cross)))


def _textures(row: Tensor, column: Tensor) -> Tensor:
    """(4, H, W) bool, the cells that have the object's colour, in the order of ``TEXTURES``."""
    stripes = (row % 2 == 0).expand(-1, len(column))
    return torch.stack([torch.ones_like(stripes), stripes, (row + column) % 2 == 0, stripes & (column % 2 == 0)])
