import math

import numpy as np
import pytest
import torch
from skimage import data

from bench.contract import Undefined
from metrics.ssim_gauss11_s15 import ssim_gauss11_s15


def by_definition(ours, theirs):
    """Wang et al.'s formula at each place where the 11 x 11 window fits, as plain loops over one grey image."""
    offsets = range(-5, 6)
    window = [[math.exp(-(dy * dy + dx * dx) / (2 * 1.5**2)) for dx in offsets] for dy in offsets]
    total = sum(map(sum, window))

    def product(one, other):
        return [[a * b for a, b in zip(p, q, strict=True)] for p, q in zip(one, other, strict=True)]

    def mean(values):
        return (
            sum(w * v for row, line in zip(window, values, strict=True) for w, v in zip(row, line, strict=True)) / total
        )

    found = []
    for top in range(len(ours) - 10):
        for left in range(len(ours[0]) - 10):
            x, y = ([row[left : left + 11] for row in image[top : top + 11]] for image in (ours, theirs))
            mx, my = mean(x), mean(y)
            vx, vy, cov = mean(product(x, x)) - mx * mx, mean(product(y, y)) - my * my, mean(product(x, y)) - mx * my
            light = (2 * mx * my + 1e-4) / (mx * mx + my * my + 1e-4)
            found.append(light * (2 * cov + 9e-4) / (vx + vy + 9e-4))
    return sum(found) / len(found)


def test_camera_with_noise_has_its_known_value():
    clean = data.camera()
    noisy = np.clip(clean + np.random.RandomState(5).normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    noisy, clean = (torch.from_numpy(image / 255.0)[None, None] for image in (noisy, clean))
    assert ssim_gauss11_s15(generated=noisy, real=clean).item() == pytest.approx(0.357964, abs=5e-7)


@pytest.mark.parametrize("shape", [(2, 1, 14, 17), (2, 3, 11, 13), (1, 2, 11, 11)])
@pytest.mark.parametrize("contrast", [1.0, 0.01])  # almost flat images are where float32 would be off
def test_agrees_with_its_definition(shape, contrast):
    generator = torch.Generator().manual_seed(0)
    generated, real = 0.9 * (1 - contrast) + contrast * torch.rand(2, *shape, generator=generator)
    values = ssim_gauss11_s15(generated=generated, real=real).tolist()
    expected = [
        sum(by_definition(a.double().tolist(), b.double().tolist()) for a, b in zip(x, y, strict=True)) / shape[1]
        for x, y in zip(generated, real, strict=True)
    ]
    assert values == pytest.approx(expected, abs=1e-9)


def test_equal_images_are_one():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert ssim_gauss11_s15(generated=images, real=images).tolist() == pytest.approx([1, 1, 1])


def test_ten_pixels_are_undefined():
    small = torch.zeros(1, 3, 10, 32)
    assert ssim_gauss11_s15(generated=small, real=small) == Undefined("the window has 11 px, the images 10×32")
