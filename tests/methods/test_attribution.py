"""The gradient map against closed forms and differences, and the law of the random map."""

import pytest
import torch

from bench.contract import AttributionTask
from methods.attribution.gradient import Gradient
from methods.attribution.random_map import RandomMap


def task_for(model, *, count=6, budget=2, seed=0):
    images = torch.rand(count, *model.image_shape, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % model.num_classes
    places = torch.arange(count)
    return AttributionTask(model=model, places=places, seed=seed, budget=budget, images=images, labels=labels)


def test_gradient_of_a_linear_network_is_its_largest_absolute_weight(linear_classifier):
    weights = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) - 0.5
    task = task_for(linear_classifier(weights))
    expected = torch.stack([weights[label].abs().max(0).values for label in task.labels])
    assert torch.allclose(Gradient().explain(task), expected, atol=1e-6)


def test_gradient_agrees_with_differences(tiny_classifier):
    task = task_for(tiny_classifier, count=2)
    maps = Gradient().explain(task)
    network = tiny_classifier.network.double()
    for row, i, j in ((0, 2, 3), (1, 5, 5), (1, 0, 7)):
        slopes = []
        for channel in range(3):
            step = torch.zeros(3, 8, 8, dtype=torch.double)
            step[channel, i, j] = 1e-7
            pair = torch.stack([task.images[row] + step, task.images[row] - step])
            up, down = network((pair - 0.5) / 0.5)[:, task.labels[row]].tolist()
            slopes.append(abs(up - down) / 2e-7)
        assert maps[row, i, j].item() == pytest.approx(max(slopes), rel=1e-3)


def test_gradient_costs_two_passes_and_leaves_the_images_alone(tiny_classifier):
    task = task_for(tiny_classifier)
    before = task.images.clone()
    Gradient().explain(task)
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (6, 6)
    assert torch.equal(task.images, before)
    assert not task.images.requires_grad


def test_gradient_of_an_image_alone_is_that_in_a_batch(tiny_classifier):
    task = task_for(tiny_classifier)
    whole = Gradient().explain(task)
    for row in range(6):
        rows = slice(row, row + 1)
        one = task.replace(places=task.places[rows], images=task.images[rows], labels=task.labels[rows])
        assert torch.allclose(Gradient().explain(one), whole[rows], atol=1e-6)


def test_random_maps_are_uniform_and_independent_of_seed_and_image(tiny_classifier):
    maps = RandomMap().explain(task_for(tiny_classifier, count=500))
    assert maps.shape == (500, 8, 8)
    assert maps.min() >= 0
    assert maps.max() < 1
    assert maps.mean().item() == pytest.approx(1 / 2, abs=0.01)
    assert maps.var().item() == pytest.approx(1 / 12, abs=0.005)
    other = RandomMap().explain(task_for(tiny_classifier, count=500, seed=1))
    assert abs(torch.corrcoef(torch.stack([maps.flatten(), other.flatten()]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([maps[1:].flatten(), maps[:-1].flatten()]))[0, 1]) < 0.03


def test_random_maps_cost_no_pass(tiny_classifier):
    RandomMap().explain(task_for(tiny_classifier))
    assert tiny_classifier.passes.total == 0


def test_reasons_to_skip(tiny_classifier):
    assert Gradient().why_not(task_for(tiny_classifier, budget=1)) == "needs 2 passes an image, the budget is 1"
    assert Gradient().why_not(task_for(tiny_classifier)) is None
