import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import structural_similarity

from bench.contract import Undefined
from metrics.ssim_gauss11_s15 import BATCH, ssim_gauss11_s15


def by_scikit_image(generated, real):
    return [
        structural_similarity(
            b.double().numpy(),
            a.double().numpy(),
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
        )
        for a, b in zip(generated, real, strict=True)
    ]


def test_camera_with_noise_has_its_known_value():
    clean = data.camera()
    noisy = np.clip(clean + np.random.RandomState(5).normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    noisy, clean = (torch.from_numpy(image / 255.0)[None, None] for image in (noisy, clean))
    assert ssim_gauss11_s15(generated=noisy, real=clean).item() == pytest.approx(0.357964, abs=5e-7)


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 28, 28), (2, 3, 11, 40), (2, 2, 11, 11)])
def test_agrees_with_scikit_image(shape):
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(shape, generator=generator)
    generated = (real + 0.2 * torch.randn(shape, generator=generator)).clamp(0, 1)
    values = ssim_gauss11_s15(generated=generated, real=real).tolist()
    assert values == pytest.approx(by_scikit_image(generated, real), abs=1e-9)


def test_agrees_with_scikit_image_where_images_are_almost_flat():
    generator = torch.Generator().manual_seed(0)
    generated, real = 0.9 + 0.01 * torch.rand(2, 3, 3, 20, 20, generator=generator)  # float32 is off by 1e-4 here
    values = ssim_gauss11_s15(generated=generated, real=real).tolist()
    assert values == pytest.approx(by_scikit_image(generated, real), abs=1e-9)


def test_equal_images_are_one():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert ssim_gauss11_s15(generated=images, real=images).tolist() == pytest.approx([1, 1, 1])


def test_an_image_has_the_same_value_in_any_batch():
    generator = torch.Generator().manual_seed(0)
    generated, real = torch.rand(2, BATCH + 3, 1, 12, 12, generator=generator)
    values = ssim_gauss11_s15(generated=generated, real=real)
    for i in (0, BATCH - 1, BATCH, BATCH + 2):
        alone = ssim_gauss11_s15(generated=generated[i : i + 1], real=real[i : i + 1])
        assert alone.item() == pytest.approx(values[i].item(), abs=1e-12)


def test_ten_pixels_are_undefined():
    small = torch.zeros(1, 3, 10, 32)
    assert ssim_gauss11_s15(generated=small, real=small) == Undefined("the window has 11 px, the images 10×32")
