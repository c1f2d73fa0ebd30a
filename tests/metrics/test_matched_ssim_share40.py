from itertools import permutations

import pytest
import torch
from skimage.metrics import structural_similarity

from bench.contract import Undefined
from metrics.matched_ssim_share40 import matched_ssim_share40

SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


def drawn(count, seed=0):
    return torch.rand(count, 1, 14, 14, generator=torch.Generator().manual_seed(seed))


def mixed(shares):
    """One image for each share of a training image, the rest noise, and those training images."""
    training, noise = drawn(len(shares)), drawn(len(shares), seed=1)
    share = torch.tensor(shares)[:, None, None, None]
    return share * training + (1 - share) * noise, training


def share_by_definition(generated, training):
    """Every assignment is tried; of the best, the matches of 0.4 and more are counted."""
    table = [
        [structural_similarity(a.double().numpy(), b.double().numpy(), channel_axis=0, **SETTINGS) for b in training]
        for a in generated
    ]
    everyone = range(len(generated))
    best = max(
        permutations(range(len(training)), len(generated)), key=lambda way: sum(table[i][way[i]] for i in everyone)
    )
    return sum(table[i][best[i]] >= 0.4 for i in everyone) / len(generated)


@pytest.mark.parametrize("shares", [(1.0, 0.9, 0.1, 0.0), (0.7, 0.5, 0.4, 0.3, 0.2), (0.0, 0.0)])
def test_agrees_with_its_definition(shares):
    generated, training = mixed(shares)
    found = matched_ssim_share40(generated=generated, training=training.flip(0))
    assert found.item() == pytest.approx(share_by_definition(generated, training))


def test_two_copies_and_two_of_noise_are_a_half():
    generated, training = mixed((1.0, 1.0, 0.0, 0.0))
    assert matched_ssim_share40(generated=generated, training=training).item() == 0.5


def test_copies_of_one_training_image_have_one_match():
    training = drawn(5)
    answer = matched_ssim_share40(generated=training[:1].expand(5, -1, -1, -1), training=training)
    assert answer.item() == pytest.approx(0.2)


def test_without_training_images_it_is_undefined():
    answer = matched_ssim_share40(generated=drawn(3), training=drawn(0))
    assert answer == Undefined("a match needs an image on each side, got 3 generated and 0 training")
