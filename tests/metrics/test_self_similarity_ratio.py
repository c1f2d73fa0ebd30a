import math

import numpy as np
import pytest
import torch
from skimage import data
from torch.nn import functional as F

from bench.contract import ShapeError, Undefined
from metrics.self_similarity_ratio import self_similarity_ratio


def detail(image, box):
    """Of a (C, H, W) array: every pixel less the mean of what a box around it holds of the image."""
    _, height, width = image.shape
    found, reach = np.zeros_like(image), box // 2
    for y in range(height):
        for x in range(width):
            around = image[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            found[:, y, x] = image[:, y, x] - around.mean((1, 2))
    return found


def peak(image, box):
    """The docstring's formula, shift by shift."""
    known = detail(image.double().numpy(), box)
    _, height, width = known.shape
    best, energy = 0.0, (known**2).sum()
    for down in range(height // 2 + 1):
        for right in range(-(width // 2), width // 2 + 1):
            if math.hypot(down / height, right / width) < 1 / 8 - 1e-9:
                continue
            first = known[:, : height - down, max(0, -right) : width - max(0, right)]
            second = known[:, down:, max(0, right) : width + min(0, right)]
            parts = (first**2).sum(), (second**2).sum()
            if min(parts) >= energy / 16:
                best = max(best, (first * second).sum() / math.sqrt(parts[0] * parts[1]))
    return best


def drawn(count, channels=2, height=16, width=12, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def photographs():
    """(4, 3, 64, 64) parts of real pictures."""
    pictures = [torch.from_numpy(np.array(picture)) for picture in (data.astronaut(), data.coffee(), data.chelsea())]
    parts = [
        picture[y : y + 256, x : x + 256] for picture, y, x in zip(pictures, (0, 60, 20), (90, 150, 90), strict=True)
    ]
    parts.append(pictures[0][200:456, 200:456])
    images = torch.stack(parts).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(images, (64, 64), mode="bilinear", antialias=True).clamp(0, 1)


@pytest.mark.parametrize(("height", "width", "box"), [(16, 12, 3), (9, 15, 3), (24, 25, 3), (40, 41, 5)])
def test_agrees_with_its_definition(height: int, width: int, box: int):
    soft = F.interpolate(drawn(3, 2, 7, 6), (height, width), mode="bicubic").clamp(0, 1)
    generated = 0.9 * soft + 0.1 * drawn(3, 2, height, width)
    real = drawn(2, 2, height, width, seed=1)
    usual = sum(peak(image, box) for image in real) / 2
    values = self_similarity_ratio(generated=generated, real=real).tolist()
    assert values == pytest.approx([peak(image, box) / usual for image in generated], rel=1e-9)


def test_energy_in_one_corner_leaves_shifts_out():
    image = torch.full((1, 1, 16, 16), 0.5)
    image[:, :, :7, :7] = drawn(1, 1, 7, 7)
    real = drawn(1, 1, 16, 16, seed=1)
    value = self_similarity_ratio(generated=image, real=real).item()
    assert value == pytest.approx(peak(image[0], 3) / peak(real[0], 3), rel=1e-9)


@pytest.mark.parametrize("times", [2, 3, 4, 8])
def test_tiles_are_far_above_photographs_and_noise_far_below(times: int):
    real = photographs()
    side = 64 // times
    tiles = F.interpolate(real, (side, side), mode="bilinear", antialias=True).repeat(1, 1, times + 1, times + 1)
    generated = torch.cat([real, tiles[:, :, :64, :64].clamp(0, 1), drawn(4, 3, 64, 64)])
    photos, tiled, noise = self_similarity_ratio(generated=generated, real=real).view(3, 4)
    assert photos.mean().item() == pytest.approx(1)
    assert tiled.min() > 2 and tiled.min() > 1.3 * photos.max()
    assert noise.max() < 0.6 and noise.max() < 0.9 * photos.min()


def test_contrast_plays_no_part_and_shade_hardly_any():
    real = photographs()
    shade = torch.linspace(0, 0.5, 64).expand(64, 64)  # four times what is left of the picture
    plain, pale, shaded = (
        self_similarity_ratio(generated=one, real=real) for one in (real, real / 4 + 0.3, real / 4 + shade)
    )
    torch.testing.assert_close(pale, plain, rtol=1e-4, atol=0)
    torch.testing.assert_close(shaded, plain, rtol=0.1, atol=0)


def test_a_constant_image_has_no_value():
    real = drawn(2)
    values = self_similarity_ratio(generated=torch.cat([real[:1], torch.full_like(real[:1], 0.1)]), real=real).tolist()
    assert not math.isnan(values[0]) and math.isnan(values[1])
    nothing = self_similarity_ratio(generated=torch.full_like(real, 0.3), real=real)
    assert nothing == Undefined("no generated image has any detail")


def test_what_cannot_be_compared_is_undefined():
    flat = self_similarity_ratio(generated=drawn(2), real=torch.full((3, 2, 16, 12), 0.7))
    assert flat == Undefined("no real image repeats itself")
    none = self_similarity_ratio(generated=drawn(2), real=drawn(0))
    assert none == Undefined("needs images on each side, got 2 generated and 0 real")
    small = self_similarity_ratio(generated=drawn(2, width=7), real=drawn(2, width=7))
    assert small == Undefined("sides below 8 px have no place for a pattern, got (16, 7)")


def test_images_of_unequal_sizes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        self_similarity_ratio(generated=drawn(2), real=drawn(2, height=9))
