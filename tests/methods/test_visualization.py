"""Pixel ascent on classes and channels, and the reference row."""

import pytest
import torch

from bench.contract import VisualizationTask
from methods.visualization.pixel_ascent import PixelAscent
from methods.visualization.real_images import RealImages

KINDS = [("class", None), ("channel", "block1"), ("channel", "block2")]


def task_for(model, *, kind="class", tap=None, count=8, budget=20, seed=0):
    return VisualizationTask(
        model=model,
        places=torch.arange(count),
        seed=seed,
        budget=budget,
        kind=kind,
        tap=tap,
        targets=torch.arange(count),
        references=torch.zeros(1, *model.image_shape),
        reference_labels=torch.zeros(1, dtype=torch.int64),
    )


def alone(task, row):
    return task.replace(places=task.places[row : row + 1], targets=task.targets[row : row + 1])


def by_definition(method, task, image, row):
    """What the docstring says is maximised, pixel by pixel for one image."""
    channels, height, width = image.shape
    grey = rough = 0.0
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                value = image[c, i, j].item()
                grey += (2 * value - 1) ** 2
                rough += (image[c, i + 1, j].item() - value) ** 2 if i + 1 < height else 0.0
                rough += (image[c, i, j + 1].item() - value) ** 2 if j + 1 < width else 0.0
    pixels = channels * height * width
    activation = alone(task, row).activation(image[None]).item()
    return activation - method.decay * grey / pixels - method.smoothness * rough / pixels


@pytest.mark.parametrize(("kind", "tap"), KINDS)
def test_activation_rises_far_above_its_start(digits_classifier, kind, tap):
    task = task_for(digits_classifier, kind=kind, tap=tap, budget=100)
    method = PixelAscent(decay=0.0, smoothness=0.0)
    start = (method.start_spread * task.noise()).sigmoid()
    gain = task.activation(method.visualize(task)) - task.activation(start)
    assert (gain >= 0).all()
    assert gain.median() > 0.5


def test_the_goal_in_the_docstring_is_what_rises(digits_classifier):
    method = PixelAscent(decay=0.5, smoothness=20.0)
    goals = []
    for budget in (2, 20, 200):
        task = task_for(digits_classifier, count=1, budget=budget)
        goals.append(by_definition(method, task, method.visualize(task)[0], 0))
    assert goals[0] < goals[1] < goals[2]
    free = PixelAscent(decay=0.0, smoothness=0.0).visualize(task)[0]
    assert by_definition(method, task, free, 0) < goals[2]


def test_smoothness_makes_images_smoother_and_decay_greyer(digits_classifier):
    task = task_for(digits_classifier, budget=100)
    images = [PixelAscent(decay=d, smoothness=s).visualize(task) for d, s in ((0, 0), (0, 100.0), (100.0, 0))]
    steps = [x.diff(dim=2).square().mean().item() for x in images]
    contrast = [(2 * x - 1).square().mean().item() for x in images]
    assert steps[1] < 0.5 * steps[0]
    assert contrast[2] < 0.5 * contrast[0]


@pytest.mark.parametrize(("kind", "tap"), KINDS)
def test_an_image_alone_comes_out_as_in_a_batch(tiny_classifier, kind, tap):
    task = task_for(tiny_classifier, kind=kind, tap=tap)
    single = torch.cat([PixelAscent().visualize(alone(task, row)) for row in range(8)])
    assert (PixelAscent().visualize(task) - single).abs().max() <= 1e-5


def test_seeds_decide_the_images(tiny_classifier):
    one, same, other = (PixelAscent().visualize(task_for(tiny_classifier, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert (one - other).abs().flatten(1).amax(1).min() > 1e-3


@pytest.mark.parametrize(("kind", "tap"), KINDS)
def test_the_whole_budget_is_used_and_no_more(tiny_classifier, kind, tap):
    PixelAscent().visualize(task_for(tiny_classifier, kind=kind, tap=tap, budget=21))
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (80, 80)


def test_reasons_to_skip(tiny_classifier):
    task = task_for(tiny_classifier, budget=1)
    assert PixelAscent().why_not(task) == "needs 2 passes an image, the budget is 1"
    assert PixelAscent().why_not(task.replace(budget=2)) is None
    assert RealImages().why_not(task) == "needs real images of the targets, the task has none"


def test_the_reference_shows_the_real_images(tiny_classifier):
    real = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    task = task_for(tiny_classifier).replace(real=real)
    assert RealImages.__glassbench__.reference
    assert RealImages().why_not(task) is None
    assert torch.equal(RealImages().visualize(task), real)
