import pytest
import torch
from skimage import data
from skimage.filters import gaussian

from bench.contract import ShapeError, Undefined
from metrics.total_variation_ratio import total_variation_ratio


def variation(image):
    """Every neighbouring pair of pixels, one after the other."""
    total = 0.0
    for plane in image.double().tolist():
        for y, row in enumerate(plane):
            for x, pixel in enumerate(row):
                total += abs(plane[y + 1][x] - pixel) if y + 1 < len(plane) else 0
                total += abs(row[x + 1] - pixel) if x + 1 < len(row) else 0
    return total


def drawn(count, seed=0):
    return torch.rand(count, 2, 5, 4, generator=torch.Generator().manual_seed(seed))


def test_agrees_with_its_definition():
    generated, real = drawn(3), drawn(4, seed=1)
    usual = sum(map(variation, real)) / 4
    values = total_variation_ratio(generated=generated, real=real).tolist()
    assert values == pytest.approx([variation(image) / usual for image in generated], rel=1e-12)


def test_half_the_contrast_is_half_the_variation():
    real = drawn(1)
    assert total_variation_ratio(generated=real / 2 + 0.2, real=real).item() == pytest.approx(0.5, rel=1e-6)


def test_an_edge_counts_its_height_times_its_length():
    step, board = torch.zeros(1, 1, 4, 4), (torch.arange(4)[:, None] + torch.arange(4)).remainder(2).float()
    step[..., 2:] = 0.5  # 4 px long, 0.5 high; the checkerboard has 24 edges of height 1
    assert total_variation_ratio(generated=step, real=board.expand(1, 1, 4, 4)).item() == pytest.approx(2 / 24)


def test_blur_lowers_and_noise_raises_it():
    photograph = data.camera()[:128, 200:328] / 255
    real = torch.from_numpy(photograph)[None, None]
    blurred = [torch.from_numpy(gaussian(photograph, s))[None, None] for s in (3.0, 1.5, 0.7)]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0), dtype=real.dtype)
    noisy = [(real + s * noise).clamp(0, 1) for s in (0.02, 0.05, 0.2)]
    values = total_variation_ratio(generated=torch.cat([*blurred, real, *noisy]), real=real).tolist()
    assert values == sorted(values) and values[3] == pytest.approx(1) and len(set(values)) == 7


def test_constant_images_are_zero_and_undefined_on_the_real_side():
    flat = torch.full((2, 2, 5, 4), 0.3)
    assert total_variation_ratio(generated=flat, real=drawn(2)).tolist() == [0, 0]
    assert total_variation_ratio(generated=drawn(2), real=flat) == Undefined("every real image is constant")
    none = total_variation_ratio(generated=drawn(0), real=flat)
    assert none == Undefined("needs images on each side, got 0 generated and 2 real")


def test_images_outside_the_intensities_are_refused():
    with pytest.raises(ShapeError, match=r"real should be intensities in \[0, 1\]"):
        total_variation_ratio(generated=drawn(2), real=drawn(2) * 255)
