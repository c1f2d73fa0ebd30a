import math
import sys

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from skimage import data
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from bench.contract import ShapeError, Undefined
from metrics.ms_ssim import ms_ssim

WINDOW = np.array([[math.exp(-(y * y + x * x) / 4.5) for x in range(-5, 6)] for y in range(-5, 6)])
WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


def by_definition(first, second):
    """Wang, Simoncelli & Bovik's equation 7 for one channel: luminance at the last scale, c · s at all of them."""

    def mean(values):
        return convolve2d(values, WINDOW / WINDOW.sum(), mode="valid")

    value = 1.0
    for weight in WEIGHTS:
        mx, my = mean(first), mean(second)
        vx, vy, cov = mean(first**2) - mx**2, mean(second**2) - my**2, mean(first * second) - mx * my
        structure = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
        light = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2) if weight == WEIGHTS[-1] else 1.0
        value *= max((light * structure).mean(), 0.0) ** weight
        first, second = halved(first), halved(second)
    return value


def halved(image):
    """Means of 2 × 2 pixels; an odd last row or column is taken twice, which leaves the mean of what is there."""
    even = np.pad(image, [(0, side % 2) for side in image.shape], mode="edge")
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def photographs(height=224, width=224):
    picture = data.astronaut().transpose(2, 0, 1) / 255
    return torch.from_numpy(np.stack([picture[:, 40 * i : 40 * i + height, 100 : 100 + width] for i in range(2)]))


def noisy(images, size=0.1):
    draw = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    return (images + size * draw).clamp(0, 1)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (161, 191)])
def test_agrees_with_its_definition(height, width):
    real = photographs(height, width)
    generated = noisy(real)
    expected = [
        np.mean([by_definition(a, b) for a, b in zip(ours.numpy(), theirs.numpy(), strict=True)])
        for ours, theirs in zip(generated, real, strict=True)
    ]
    assert ms_ssim(generated=generated, real=real).tolist() == pytest.approx(expected, abs=1e-9)


def test_torchmetrics_differs_by_the_border_of_the_coarsest_scale_alone():
    real = photographs()[:, :1]
    theirs = multiscale_structural_similarity_index_measure(noisy(real), real, data_range=1.0, reduction="none")
    assert ms_ssim(generated=noisy(real), real=real).tolist() == pytest.approx(theirs.tolist(), abs=5e-3)


def test_equal_images_are_one():
    real = photographs()
    assert ms_ssim(generated=real, real=real).tolist() == pytest.approx([1, 1])


def test_a_negative_is_zero_not_nan():
    real = photographs()
    assert ms_ssim(generated=1 - real, real=real).tolist() == [0, 0]


def test_batches_bound_the_memory_and_change_nothing(monkeypatch):
    real = photographs()
    generated = noisy(real)
    together = ms_ssim(generated=generated, real=real)
    monkeypatch.setattr(sys.modules[ms_ssim.__module__], "BATCH", 1)
    torch.testing.assert_close(ms_ssim(generated=generated, real=real), together, rtol=0, atol=1e-14)


def test_small_images_are_undefined_not_resized():
    small = torch.zeros(1, 3, 224, 160)
    expected = Undefined("five scales of an 11 px window need 161 px, the images have 224×160")
    assert ms_ssim(generated=small, real=small) == expected


def test_unequal_shapes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        ms_ssim(generated=torch.zeros(1, 3, 161, 161), real=torch.zeros(1, 1, 161, 161))
