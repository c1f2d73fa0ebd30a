from itertools import permutations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from bench.contract import ShapeError, Undefined
from metrics.matched_ssim import matched_ssim

SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


def drawn(count, seed=0):
    return torch.rand(count, 2, 12, 11, generator=torch.Generator().manual_seed(seed))


def by_definition(generated, real):
    """The best of all one-to-one assignments, tried one after the other."""
    fewer, more = sorted((generated.double().numpy(), real.double().numpy()), key=len)
    table = [[structural_similarity(a, b, channel_axis=0, **SETTINGS) for b in more] for a in fewer]
    return max(
        np.mean([table[i][j] for i, j in enumerate(places)]) for places in permutations(range(len(more)), len(fewer))
    )


@pytest.mark.parametrize(("count", "references"), [(4, 4), (2, 5), (5, 3), (1, 1)])
def test_is_the_best_of_all_assignments(count, references):
    generated, real = drawn(count), drawn(references, seed=1)
    expected = by_definition(generated, real)
    assert matched_ssim(generated=generated, real=real).item() == pytest.approx(expected, abs=1e-12)


def test_real_images_in_another_order_match_themselves():
    real = drawn(7)
    assert matched_ssim(generated=real[[3, 0, 6, 1, 5]], real=real).item() == pytest.approx(1)


def test_copies_of_one_real_image_have_one_partner_only():
    real = drawn(3)
    answer = matched_ssim(generated=real[:1].expand(3, -1, -1, -1), real=real).item()
    assert answer == pytest.approx(by_definition(real[:1].expand(3, -1, -1, -1), real), abs=1e-12)
    assert answer < 0.5


def test_more_noise_matches_worse():
    real, noise = drawn(6), drawn(6, seed=1)
    found = [matched_ssim(generated=(1 - s) * real + s * noise, real=real).item() for s in (0, 0.1, 0.3, 1)]
    assert found == sorted(found, reverse=True) and found[-1] < found[0]


def test_no_more_than_asked_for_enter_and_their_order_moves_nothing():
    real, generated = drawn(9), drawn(8, seed=1)
    turned = matched_ssim(generated=generated.flip(0), real=real.roll(3, 0), most=4).item()
    assert matched_ssim(generated=generated, real=real, most=4).item() == pytest.approx(turned, abs=1e-14)
    assert matched_ssim(generated=generated, real=real).item() != pytest.approx(turned, abs=1e-6)


def test_no_images_and_ten_pixels_are_undefined():
    answer = matched_ssim(generated=drawn(3), real=drawn(0))
    assert answer == Undefined("a match needs an image on each side, got 3 generated and 0 real")
    small = torch.zeros(2, 1, 12, 10)
    assert matched_ssim(generated=small, real=small) == Undefined("the window has 11 px, the images 12×10")


def test_images_of_unequal_sizes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        matched_ssim(generated=torch.zeros(2, 1, 12, 12), real=torch.zeros(2, 3, 12, 12))
