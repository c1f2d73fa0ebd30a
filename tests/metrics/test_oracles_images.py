"""SSIM and PSNR against scikit-image and torchmetrics, on real images where they are at hand."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.filters import gaussian
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from metrics import _ssim
from metrics.ms_ssim import ms_ssim
from metrics.psnr import psnr
from metrics.rmse import rmse
from metrics.ssim_gauss11_s15 import ssim_gauss11_s15

DATA = Path(os.environ.get("GLASSBENCH_DATA", "absent"))


def mnist(count):
    path = DATA / "mnist" / "t10k-images-idx3-ubyte.gz"
    if not path.exists():
        pytest.skip("GLASSBENCH_DATA has no MNIST")
    pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
    return pixels.reshape(-1, 1, 28, 28)[:count] / 255


def cifar10(count):
    path = DATA / "cifar10" / "cifar10_batch_50.png"
    if not path.exists():
        pytest.skip("GLASSBENCH_DATA has no CIFAR-10")
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 32, 32, 3)[:count].transpose(0, 3, 1, 2) / 255


def photographs(count):
    """224 px windows of scikit-image's astronaut."""
    picture = data.astronaut().transpose(2, 0, 1) / 255
    return np.stack([picture[:, 60 * i : 60 * i + 224, 50 * i : 50 * i + 224] for i in range(count)])


def drawn(count, channels, height, width):
    return np.random.RandomState(0).rand(count, channels, height, width)


SETS = {
    "mnist": lambda: mnist(60),
    "cifar10": lambda: cifar10(60),
    "photographs": lambda: photographs(3),
    "least_grey": lambda: drawn(5, 1, 11, 11),
    "least_rgb": lambda: drawn(5, 3, 11, 14),
    "nearly_flat": lambda: 0.9 + 0.01 * drawn(5, 3, 30, 20),
}
DAMAGES = {
    "noise": lambda images: (images + np.random.RandomState(1).normal(0, 0.1, images.shape)).clip(0, 1),
    "blur": lambda images: gaussian(images, sigma=(0, 0, 1, 1)),
    "another": lambda images: np.roll(images, 1, axis=0),
}


@pytest.fixture(params=SETS)
def real(request):
    return SETS[request.param]()


@pytest.fixture(params=DAMAGES)
def generated(request, real):
    return DAMAGES[request.param](real)


def tensors(*sides):
    return [torch.from_numpy(np.ascontiguousarray(side)) for side in sides]


def test_ssim_is_that_of_scikit_image_image_by_image(generated, real):
    ours = ssim_gauss11_s15(generated=torch.from_numpy(generated.copy()), real=torch.from_numpy(real.copy()))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    theirs = [structural_similarity(a, b, channel_axis=0, **settings) for a, b in zip(generated, real, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_what_accelerators_use_agrees_with_what_processors_use(generated, real, monkeypatch):
    first, second = tensors(generated[:2], real[:2])
    expected = _ssim.ssim(first, second)
    monkeypatch.setattr(_ssim, "_with_scikit_image", _ssim._with_torchmetrics)
    np.testing.assert_allclose(_ssim.ssim(first, second), expected, atol=1e-12)


def test_psnr_is_that_of_scikit_image(generated, real):
    ours = psnr(generated=torch.from_numpy(generated.copy()), real=torch.from_numpy(real.copy()))
    theirs = [peak_signal_noise_ratio(b, a, data_range=1) for a, b in zip(generated, real, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_blocks_bound_the_memory_and_change_nothing(monkeypatch):
    first, second = tensors(drawn(7, 2, 13, 12), DAMAGES["noise"](drawn(7, 2, 13, 12)))
    whole = _ssim.ssim(first, second)
    monkeypatch.setattr(_ssim, "BLOCK_ON_CPU", 1)
    torch.testing.assert_close(_ssim.ssim(first, second), whole, rtol=0, atol=1e-14)


def test_contrast_and_structure_are_those_of_torchmetrics():
    first, second = tensors(photographs(2)[:, :1], DAMAGES["noise"](photographs(2)[:, :1]))
    _, theirs = structural_similarity_index_measure(
        first, second, data_range=1.0, reduction="none", return_contrast_sensitivity=True
    )
    torch.testing.assert_close(_ssim.ssim(first, second, k1=1e9), theirs, rtol=0, atol=1e-12)


def test_scikit_image_has_its_known_value_for_the_noisy_camera():
    clean = data.camera()
    noisy = np.clip(clean + np.random.RandomState(5).normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    assert structural_similarity(clean, noisy, data_range=255) == pytest.approx(0.3674518, abs=5e-8)


@pytest.mark.parametrize("kind", ["mnist", "cifar10", "photographs"])
@pytest.mark.parametrize("damage", ["noise", "blur"])
def test_more_damage_is_worse_for_every_measure(kind, damage):
    images = SETS[kind]()
    steps = {
        "noise": [np.clip(images + s * np.random.RandomState(2).randn(*images.shape), 0, 1) for s in (0.02, 0.1, 0.4)],
        "blur": [gaussian(images, sigma=(0, 0, s, s)) for s in (0.5, 1.0, 2.5)],
    }[damage]
    measures = {ssim_gauss11_s15: -1, psnr: -1, rmse: 1} | ({ms_ssim: -1} if kind == "photographs" else {})
    for measure, sign in measures.items():
        means = [
            sign * measure(generated=torch.from_numpy(step), real=torch.from_numpy(images.copy())).mean()
            for step in steps
        ]
        assert means[0] < means[1] < means[2], measure.__name__
