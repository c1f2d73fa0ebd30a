"""Noise search, pixel ascent and the reference row."""

import random

import numpy as np
import pytest
import torch

from bench.contract import BudgetExceeded, Diverged, InversionTask
from methods.inversion.noise_search import NoiseSearch
from methods.inversion.pixel_ascent import PixelAscent
from methods.inversion.real_images import RealImages

SEARCHES = [NoiseSearch(), PixelAscent()]


def task_for(model, *, count=10, budget=20, seed=0):
    labels = torch.arange(count) % model.num_classes
    return InversionTask(model=model, places=torch.arange(count), seed=seed, budget=budget, labels=labels)


def alone(task, row):
    return task.replace(places=task.places[row : row + 1], labels=task.labels[row : row + 1])


def wanted_logits(task, images):
    return task.model(images).gather(1, task.labels[:, None])[:, 0]


def test_noise_search_keeps_the_best_of_its_draws(tiny_classifier):
    """Its draws again, one image and one draw at a time."""
    task = task_for(tiny_classifier, count=4, budget=7)
    found = wanted_logits(task, NoiseSearch().invert(task))
    for row in range(4):
        one = alone(task, row)
        draws = [NoiseSearch()._noise(one, draw) for draw in range(7)]
        assert found[row].item() == pytest.approx(max(wanted_logits(one, image).item() for image in draws), abs=1e-5)


def test_noise_search_gains_from_a_larger_budget(digits_classifier):
    small, large = (task_for(digits_classifier, budget=budget) for budget in (1, 50))
    assert (wanted_logits(small, NoiseSearch().invert(small)) < wanted_logits(large, NoiseSearch().invert(large))).all()


def test_noise_of_grain_1_is_white_with_the_contrast_set(tiny_classifier):
    task = task_for(tiny_classifier, count=200, budget=1)
    images = NoiseSearch(grain=1, contrast=0.1).invert(task)
    assert images.mean().item() == pytest.approx(0.5, abs=0.003)
    assert images.std().item() == pytest.approx(0.1, rel=0.02)
    neighbours = np.corrcoef(images[..., 1:].flatten(), images[..., :-1].flatten())[0, 1]
    assert abs(neighbours) < 0.02


def test_pixel_ascent_takes_the_steps_of_adam_by_hand(linear_classifier):
    """On a linear network the gradient is known: σ'(p) w. Adam written out in NumPy."""
    weights = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    task = task_for(linear_classifier(weights), count=2, budget=10)
    pixels = 0.1 * task.noise().double().numpy()
    mean, square = np.zeros_like(pixels), np.zeros_like(pixels)
    for step in range(1, 6):
        images = 1 / (1 + np.exp(-pixels))
        gradient = -weights.double().numpy() * images * (1 - images)  # label b is class b
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        pixels -= 0.05 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    expected = 1 / (1 + np.exp(-pixels))
    assert np.allclose(PixelAscent().invert(task).numpy(), expected, atol=1e-5)


def test_pixel_ascent_convinces_a_network_of_real_digits(digits_classifier):
    task = task_for(digits_classifier, count=20, budget=200)
    images = PixelAscent().invert(task)
    assert (digits_classifier(images).softmax(1).gather(1, task.labels[:, None]) > 0.99).all()


@pytest.mark.parametrize("search", SEARCHES)
def test_an_image_alone_comes_out_as_in_a_batch(tiny_classifier, search):
    task = task_for(tiny_classifier, budget=20)
    single = torch.cat([search.invert(alone(task, row)) for row in range(10)])
    assert (search.invert(task) - single).abs().max() <= 1e-5


@pytest.mark.parametrize("search", SEARCHES)
def test_seeds_decide_the_images(tiny_classifier, search):
    one, same, other = (search.invert(task_for(tiny_classifier, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert (one - other).abs().flatten(1).amax(1).min() > 1e-3
    assert (one[0] - one[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("search", "forward", "backward"), [(NoiseSearch(), 21, 0), (PixelAscent(), 10, 10)])
def test_the_whole_budget_is_used_and_no_more(tiny_classifier, search, forward, backward):
    tiny_classifier.passes.limit = 21 * 10
    search.invert(task_for(tiny_classifier, budget=21))
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (10 * forward, 10 * backward)
    with pytest.raises(BudgetExceeded):
        search.invert(task_for(tiny_classifier, budget=21))


@pytest.mark.parametrize("search", SEARCHES)
def test_global_generators_are_left_as_found(tiny_classifier, search):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    search.invert(task_for(tiny_classifier))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_numbers_that_are_not_finite_are_called_diverged(linear_classifier):
    broken = task_for(linear_classifier(torch.full((2, 1, 4, 4), torch.nan)), count=3)
    with pytest.raises(Diverged, match="3 of 3 images are not finite"):
        PixelAscent().invert(broken)


def test_reasons_to_skip(tiny_classifier):
    assert PixelAscent().why_not(task_for(tiny_classifier, budget=1)) == "needs 2 passes an image, the budget is 1"
    assert NoiseSearch().why_not(task_for(tiny_classifier, budget=0)) == "needs 1 pass an image, the budget is 0"
    assert PixelAscent().why_not(task_for(tiny_classifier, budget=2)) is None
    assert NoiseSearch().why_not(task_for(tiny_classifier, budget=1)) is None


def test_the_reference_shows_the_real_images_or_says_that_there_are_none(tiny_classifier):
    task = task_for(tiny_classifier)
    assert RealImages.__glassbench__.reference
    assert RealImages().why_not(task) == "needs real images of the wanted labels, the task has none"
    task = task.replace(real=torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert RealImages().why_not(task) is None
    assert torch.equal(RealImages().invert(task), task.real)
