from itertools import permutations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from bench.contract import ShapeError, Undefined
from metrics._matching import ssim_table
from metrics.matched_ssim import matched_ssim
from metrics.matched_ssim_gain import matched_ssim_gain

SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


def drawn(count, seed=0, side=(12, 13)):
    return torch.rand(count, 2, *side, generator=torch.Generator().manual_seed(seed))


def similarity(first, second):
    return structural_similarity(first.double().numpy(), second.double().numpy(), channel_axis=0, **SETTINGS)


def best_mean(generated, real):
    """The best of all one-to-one assignments, tried one after the other."""
    fewer, more = sorted((generated, real), key=len)
    table = [[similarity(a, b) for b in more] for a in fewer]
    return max(
        np.mean([table[i][j] for i, j in enumerate(places)]) for places in permutations(range(len(more)), len(fewer))
    )


@pytest.mark.parametrize(("side", "block"), [((12, 13), 2**20), ((28, 28), 1), ((40, 11), 3000)])
def test_the_table_is_that_of_scikit_image_in_blocks_of_any_size(side, block, monkeypatch):
    monkeypatch.setattr("metrics._matching.BLOCK", block)
    first, second = drawn(3, side=side), drawn(4, seed=1, side=side) ** 3
    expected = [[similarity(a, b) for b in second] for a in first]
    assert ssim_table(first, second).numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_equal_and_almost_flat_images_keep_their_digits():
    flat = 1 - 1e-6 * drawn(2)
    expected = [[similarity(a, b) for b in flat] for a in flat]
    assert ssim_table(flat, flat).numpy() == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize(("count", "references"), [(4, 4), (2, 5), (5, 3), (1, 1)])
def test_is_the_difference_of_the_best_assignments(count, references):
    generated, real, training = drawn(count), drawn(references, seed=1), drawn(references, seed=2)
    expected = best_mean(generated, training) - best_mean(generated, real)
    found = matched_ssim_gain(generated=generated, real=real, training=training).item()
    assert found == pytest.approx(expected, abs=1e-12)


def test_it_is_matched_ssim_of_one_set_less_that_of_the_other():
    generated, real, training = drawn(9), drawn(8, seed=1), drawn(8, seed=2)
    expected = matched_ssim(generated=generated, real=training) - matched_ssim(generated=generated, real=real)
    found = matched_ssim_gain(generated=generated, real=real, training=training)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_copies_of_training_images_gain_and_copies_of_held_out_ones_lose():
    real, training = drawn(5, seed=1), drawn(5, seed=2)
    gains = [matched_ssim_gain(generated=images, real=real, training=training).item() for images in (training, real)]
    assert gains == pytest.approx([1 - best_mean(training, real), best_mean(real, training) - 1], abs=1e-12)
    assert gains[0] > 0.5 > -0.5 > gains[1]


def test_images_like_both_sets_gain_nothing():
    generated, both = drawn(4), drawn(6, seed=1)
    assert matched_ssim_gain(generated=generated, real=both, training=both.flip(0)).item() == pytest.approx(
        0, abs=1e-14
    )


def test_more_training_images_than_held_out_ones_are_no_advantage():
    fair, unfair = [], []
    for seed in range(0, 48, 3):
        generated, real, training = drawn(6, seed), drawn(3, seed + 1), drawn(30, seed + 2)
        fair.append(matched_ssim_gain(generated=generated, real=real, training=training).item())
        both = [matched_ssim(generated=generated, real=images).item() for images in (training, real)]
        unfair.append(both[0] - both[1])
    assert abs(np.mean(fair)) < 0.03 < np.mean(unfair) / 2


def test_an_empty_set_and_ten_pixels_are_undefined():
    answer = matched_ssim_gain(generated=drawn(3), real=drawn(2), training=drawn(0))
    assert answer == Undefined("a match needs an image on each side, got 3 generated and 0 training")
    small = torch.zeros(2, 1, 12, 10)
    answer = matched_ssim_gain(generated=small, real=small, training=small)
    assert answer == Undefined("the window has 11 px, the images 12×10")


def test_training_images_of_another_size_are_refused():
    with pytest.raises(ShapeError, match="training should be"):
        matched_ssim_gain(generated=drawn(2), real=drawn(2), training=drawn(2, side=(13, 12)))
