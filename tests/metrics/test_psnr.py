import math

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from bench.contract import ShapeError, Undefined
from metrics.psnr import psnr


def golden_pair():
    """The camera with RandomState(5) noise of sigma 20, clipped, and without; (1, 1, 512, 512) in [0, 1]."""
    clean = data.camera()
    noisy = np.clip(clean + np.random.RandomState(5).normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    return [torch.from_numpy(image / 255.0)[None, None] for image in (noisy, clean)]


def test_camera_with_noise_has_its_known_value():
    noisy, clean = golden_pair()
    assert psnr(generated=noisy, real=clean).item() == pytest.approx(22.40935, abs=5e-6)


def test_a_difference_of_a_tenth_is_20_db():
    real = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    assert psnr(generated=real + 0.1, real=real).tolist() == pytest.approx([20, 20])


def test_agrees_with_scikit_image_image_by_image():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.rand(2, 4, 3, 9, 7, generator=generator)
    expected = [peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1) for a, b in zip(ours, theirs, strict=True)]
    assert psnr(generated=ours, real=theirs).tolist() == pytest.approx(expected, rel=1e-6)


def test_one_identical_image_has_no_value():
    real = torch.zeros(2, 1, 4, 4)
    generated = torch.cat([real[:1], real[1:] + 0.1])
    values = psnr(generated=generated, real=real).tolist()
    assert math.isnan(values[0]) and values[1] == pytest.approx(20)


def test_only_identical_images_are_undefined():
    real = torch.zeros(2, 1, 4, 4)
    assert psnr(generated=real, real=real) == Undefined("every image equals its original: no finite PSNR")


def test_bytes_are_refused():
    with pytest.raises(ShapeError, match=r"generated should be intensities in \[0, 1\], got \[0, 255\]"):
        psnr(generated=torch.tensor([0.0, 255.0]).view(1, 1, 1, 2), real=torch.zeros(1, 1, 1, 2))


def test_unequal_shapes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        psnr(generated=torch.zeros(1, 3, 4, 4), real=torch.zeros(1, 1, 4, 4))
