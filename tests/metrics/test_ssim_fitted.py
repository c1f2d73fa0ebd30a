import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from bench.contract import ShapeError, Undefined
from metrics.ssim_fitted import ssim_fitted


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def by_polyfit(ours, theirs):
    """numpy's least-squares line through (our pixel, its pixel), clipped, and scikit-image's SSIM."""
    ours, theirs = ours.double().numpy(), theirs.double().numpy()
    gain, offset = np.polyfit(ours.ravel(), theirs.ravel(), 1)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    image = np.clip(gain * ours + offset, 0, 1)
    return structural_similarity(theirs, image, data_range=1, channel_axis=0, **window)


@pytest.mark.parametrize("shape", [(3, 3, 16, 14), (3, 1, 12, 12)])
@pytest.mark.parametrize("likeness", [0.0, 0.7, 0.99])
def test_agrees_with_numpy_and_scikit_image(shape, likeness):
    real = uniform(*shape, seed=1)
    generated = (likeness * real + (1 - likeness) * uniform(*shape)) * 0.6
    expected = [by_polyfit(a, b) for a, b in zip(generated, real, strict=True)]
    assert ssim_fitted(generated=generated, real=real).tolist() == pytest.approx(expected, abs=1e-9)


def test_images_equal_but_for_gain_and_offset_are_one():
    real = uniform(3, 3, 12, 12)
    for generated in (real, 0.2 * real + 0.5, 1 - real):
        assert ssim_fitted(generated=generated, real=real).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_an_image_without_contrast_counts_as_the_originals_mean():
    """Against a constant the contrast term is K2² / (variance + K2²): small where the original has structure."""
    real = uniform(2, 1, 12, 12)
    flat = real.mean((1, 2, 3), keepdim=True).expand_as(real)
    black, same = (ssim_fitted(generated=images, real=real) for images in (torch.zeros_like(real), flat))
    assert black.tolist() == pytest.approx(same.tolist(), abs=1e-6)
    assert 0 < black.max() < 0.05


def test_ten_pixels_are_undefined():
    small = torch.zeros(1, 3, 10, 32)
    assert ssim_fitted(generated=small, real=small) == Undefined("the window has 11 px, the images 10×32")


def test_unequal_shapes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        ssim_fitted(generated=torch.zeros(1, 3, 12, 12), real=torch.zeros(1, 1, 12, 12))
