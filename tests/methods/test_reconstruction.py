"""Feature matching finds real digits again, and minimises what its docstring says."""

from itertools import pairwise

import pytest
import torch

from bench.contract import ReconstructionTask
from methods.reconstruction.feature_matching import FeatureMatching

TAPS = ["block1", "block2", "penultimate"]


def task_for(model, images, *, tap="block1", budget=20, seed=0):
    with torch.no_grad():
        wanted = model.features(images, tap)
    model.passes.forward = 0
    places = torch.arange(len(images))
    known = {"references": images, "reference_labels": torch.zeros(len(images), dtype=torch.int64)}
    return ReconstructionTask(model=model, places=places, seed=seed, budget=budget, tap=tap, wanted=wanted, **known)


def alone(task, row):
    return task.replace(places=task.places[row : row + 1], wanted=task.wanted[row : row + 1])


def numbers(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def relative_errors(task, images):
    """‖Φ(x) − Φ₀‖ / ‖Φ₀‖, one image at a time."""
    found = task.model.features(images, task.tap)
    return [((f - w).square().sum() / w.square().sum()).sqrt().item() for f, w in zip(found, task.wanted, strict=True)]


def by_definition(method, task, images, row):
    """What the docstring says is minimised, pixel by pixel for one image."""
    image = images[row, 0].tolist()
    spread = sum(abs(2 * value - 1) ** method.alpha for line in image for value in line)
    rough = sum((a - b) ** 2 for up, down in pairwise(image) for a, b in zip(up, down, strict=True))
    rough += sum((a - b) ** 2 for line in image for a, b in pairwise(line))
    pixels = len(image) * len(image[0])
    mismatch = relative_errors(alone(task, row), images[row : row + 1])[0] ** 2
    return mismatch + method.alpha_weight * spread / pixels + method.smoothness * rough / pixels


@pytest.mark.parametrize("tap", TAPS)
def test_feature_error_falls_to_a_small_part_of_its_start(digits, digits_classifier, tap):
    task = task_for(digits_classifier, digits[0][1200:1208], tap=tap, budget=300)
    start = relative_errors(task, 0.5 + 0.1 * task.noise())
    end = relative_errors(task, FeatureMatching(smoothness=0.0).reconstruct(task))
    assert all(after < 0.4 * before for before, after in zip(start, end, strict=True))


def test_real_digits_are_found_again_behind_the_first_block(digits, digits_classifier):
    """Each reconstruction is nearer to its own digit than to 99 others."""
    images = digits[0][1200:1300]
    made = FeatureMatching(smoothness=0.1).reconstruct(task_for(digits_classifier, images, budget=300))
    nearest = torch.cdist(made.flatten(1), images.flatten(1)).argmin(1)
    assert (nearest == torch.arange(100)).float().mean() > 0.95


def test_the_loss_in_the_docstring_is_what_falls(digits, digits_classifier):
    method = FeatureMatching(alpha_weight=0.1, smoothness=0.5)
    images = digits[0][1200:1203]
    losses = []
    for budget in (2, 40, 400):
        task = task_for(digits_classifier, images, tap="block2", budget=budget)
        made = method.reconstruct(task)
        losses.append([by_definition(method, task, made, row) for row in range(3)])
    assert all(first > second > third for first, second, third in zip(*losses, strict=True))
    without = FeatureMatching(alpha_weight=0.0, smoothness=0.0).reconstruct(task)
    assert all(by_definition(method, task, without, row) > losses[2][row] for row in range(3))


def test_brightness_of_the_features_does_not_change_the_weights(linear_classifier):
    """Features and network scaled by 1000 give the same images: the mismatch is relative."""
    weights, images = numbers(5, 1, 4, 4) - 0.5, numbers(3, 1, 4, 4)
    small, large = (
        FeatureMatching().reconstruct(task_for(linear_classifier(scale * weights), images, tap="penultimate"))
        for scale in (1.0, 1000.0)
    )
    assert torch.allclose(small, large, atol=1e-5)


@pytest.mark.parametrize("tap", TAPS)
def test_an_image_alone_comes_out_as_in_a_batch(tiny_classifier, tap):
    task = task_for(tiny_classifier, numbers(11, 3, 8, 8), tap=tap)
    single = torch.cat([FeatureMatching().reconstruct(alone(task, row)) for row in range(11)])
    assert (FeatureMatching().reconstruct(task) - single).abs().max() <= 1e-5


def test_seeds_decide_the_images(tiny_classifier):
    images = numbers(4, 3, 8, 8)
    one, same, other = (FeatureMatching().reconstruct(task_for(tiny_classifier, images, seed=s)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert (one - other).abs().flatten(1).amax(1).min() > 1e-3


@pytest.mark.parametrize("tap", TAPS)
def test_the_whole_budget_is_used_and_no_more(tiny_classifier, tap):
    FeatureMatching().reconstruct(task_for(tiny_classifier, numbers(4, 3, 8, 8), tap=tap, budget=21))
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (40, 40)


def test_features_that_are_all_zero_do_not_divide_by_zero(tiny_classifier):
    task = task_for(tiny_classifier, numbers(2, 3, 8, 8))
    made = FeatureMatching().reconstruct(task.replace(wanted=torch.zeros_like(task.wanted)))
    assert made.isfinite().all()


def test_reasons_to_skip(tiny_classifier):
    task = task_for(tiny_classifier, numbers(2, 3, 8, 8), budget=1)
    assert FeatureMatching().why_not(task) == "needs 2 passes an image, the budget is 1"
    assert FeatureMatching().why_not(task.replace(budget=2)) is None
