import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from skimage import data
from skimage.filters import gaussian

from bench.contract import ShapeError, Undefined
from metrics.high_frequency_ratio import high_frequency_ratio


def share(image):
    """Of a (C, H, W) image, by the cosine transform, which is the Fourier transform of the mirrored image."""
    fine = every = 0.0
    for plane in image.double().numpy():
        for (v, u), value in np.ndenumerate(dctn(plane - plane.mean(), norm="ortho")):
            every += value**2
            fine += value**2 * (math.hypot(v / len(plane), u / len(plane[0])) / 2 > 0.25 + 1e-12)
    return fine / every


def drawn(count, channels=2, height=8, width=6, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def wave(half_cycles, side=16):
    """(1, 1, side, side) vertical stripes with so many half cycles across the image, level at both edges."""
    places = torch.arange(side).double() + 0.5
    return (0.5 + 0.4 * torch.cos(math.pi * half_cycles * places / side)).expand(1, 1, side, side)


@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 5)])
def test_agrees_with_its_definition(height, width):
    generated, real = drawn(3, height=height, width=width), drawn(2, height=height, width=width, seed=1)
    usual = sum(map(share, real)) / 2
    values = high_frequency_ratio(generated=generated, real=real).tolist()
    assert values == pytest.approx([share(image) / usual for image in generated], rel=1e-9)


def test_stripes_count_above_half_the_nyquist_frequency_and_not_at_it():
    stripes = torch.cat([wave(1), wave(8), wave(9), wave(15)])  # 8 half cycles of 16 px are half of Nyquist
    values = high_frequency_ratio(generated=stripes, real=wave(12)).tolist()
    assert values == pytest.approx([0, 0, 1, 1], abs=1e-12)


def test_the_radius_counts_not_the_axes():
    both = 0.5 + (wave(6) - 0.5) * (wave(6) - 0.5).mT  # 6 half cycles both ways are 6 √2 > 8 along the diagonal
    assert high_frequency_ratio(generated=both, real=wave(12)).item() == pytest.approx(1)


def test_a_slope_from_border_to_border_is_no_fine_detail():
    slope = torch.linspace(0, 1, 32, dtype=torch.float64).expand(1, 1, 32, 32)
    checkerboard = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).double().expand(1, 1, 32, 32)
    assert high_frequency_ratio(generated=slope, real=checkerboard).item() < 1e-3


def test_real_images_are_as_fine_as_themselves():
    real = drawn(5)
    assert high_frequency_ratio(generated=real, real=real).mean().item() == pytest.approx(1)


def test_blur_lowers_and_noise_raises_it():
    photograph = data.camera()[:128, 200:328] / 255
    real = torch.from_numpy(photograph)[None, None]
    blurred = [torch.from_numpy(gaussian(photograph, s))[None, None] for s in (3.0, 1.5, 0.7)]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0), dtype=real.dtype)
    noisy = [(real + s * noise).clamp(0, 1) for s in (0.02, 0.05, 0.2)]
    values = high_frequency_ratio(generated=torch.cat([*blurred, real, *noisy]), real=real).tolist()
    assert values == sorted(values) and len(set(values)) == 7


def test_a_constant_image_has_no_value():
    real = drawn(2)
    values = high_frequency_ratio(generated=torch.cat([real[:1], torch.full_like(real[:1], 0.1)]), real=real).tolist()
    assert not math.isnan(values[0]) and math.isnan(values[1])
    nothing = high_frequency_ratio(generated=torch.full_like(real, 0.3), real=real)
    assert nothing == Undefined("every generated image is constant")


def test_real_images_without_detail_are_undefined_not_infinite():
    expected = Undefined("no real image has energy above half the Nyquist frequency")
    assert high_frequency_ratio(generated=drawn(2), real=torch.full((3, 2, 8, 6), 0.7)) == expected
    none = high_frequency_ratio(generated=drawn(2), real=drawn(0))
    assert none == Undefined("needs images on each side, got 2 generated and 0 real")


def test_images_of_unequal_sizes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        high_frequency_ratio(generated=drawn(2), real=drawn(2, height=9))
