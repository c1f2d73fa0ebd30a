from itertools import combinations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from bench.contract import ShapeError, Undefined
from metrics.same_class_ssim import same_class_ssim


def by_definition(images):
    """One pair after the other with scikit-image."""
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    pairs = combinations(images.double().numpy(), 2)
    return np.mean([1 - structural_similarity(a, b, channel_axis=0, **settings) for a, b in pairs])


def drawn(count, channels=1, side=12, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_agrees_with_its_definition(channels):
    images = drawn(6, channels)
    assert same_class_ssim(generated=images).item() == pytest.approx(by_definition(images), abs=1e-12)


def test_one_image_repeated_has_no_diversity():
    assert same_class_ssim(generated=drawn(1).expand(9, 1, 12, 12)).item() == pytest.approx(0, abs=1e-12)


def test_a_picture_and_its_negative_are_more_than_one_apart():
    board = (torch.arange(12)[:, None] + torch.arange(12)).remainder(2).float().expand(1, 1, 12, 12)
    # equal means of 1/2, variances of 1/4 and covariance −1/4 at every place, but for a window that is cut
    expected = 1 - (-0.5 + 9e-4) / (0.5 + 9e-4)
    assert same_class_ssim(generated=torch.cat([board, 1 - board])).item() == pytest.approx(expected, rel=1e-4)


def test_black_and_white_are_one_apart():
    # no variance: luminance alone, (2 · 0 · 1 + C1) / (0 + 1 + C1)
    images = torch.cat([torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11)])
    assert same_class_ssim(generated=images).item() == pytest.approx(1 - 1e-4 / (1 + 1e-4), abs=1e-9)


def test_more_noise_is_more_diverse():
    image, noise = drawn(1), drawn(8, seed=1) - 0.5
    found = [same_class_ssim(generated=(0.5 * image + 0.25 + s * noise)).item() for s in (0.05, 0.1, 0.2, 0.5)]
    assert found == sorted(found) and found[0] < found[-1]


def test_some_pairs_of_many_images_are_near_all_pairs_of_them():
    images = drawn(60, side=16)
    images[:30] = images[:1] * 0.9 + 0.1 * images[:30]  # half of them alike
    every, some = same_class_ssim(generated=images).item(), same_class_ssim(generated=images, pairs=500).item()
    assert some != every
    assert some == pytest.approx(every, rel=0.05)


def test_the_order_of_many_images_moves_nothing():
    images = drawn(40)
    mixed = images[torch.randperm(40, generator=torch.Generator().manual_seed(3))]
    expected = same_class_ssim(generated=images, pairs=100).item()
    assert same_class_ssim(generated=mixed, pairs=100).item() == pytest.approx(expected, abs=1e-14)


def test_one_image_is_undefined_not_zero():
    assert same_class_ssim(generated=drawn(1)) == Undefined("a pair needs 2 images of the class, got 1")


def test_ten_pixels_are_undefined():
    answer = same_class_ssim(generated=drawn(3, side=10))
    assert answer == Undefined("the window has 11 px, the images 10×10")


def test_images_outside_the_intensities_are_refused():
    with pytest.raises(ShapeError, match=r"generated should be intensities in \[0, 1\]"):
        same_class_ssim(generated=drawn(2) * 255)
