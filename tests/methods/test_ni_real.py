"""ni_real: its two terms against plain loops, what it does to pictures, and what it leaves behind."""

import math

import pytest
import torch
from torch import nn

from bench._batch_norm import watched
from bench.contract import SetupError
from bench.zoo.classifier import Classifier
from methods.inversion.ni_real import NiReal, divergence, spread_hinge, standardised
from tests import toys

TINY = {"width": 2, "latent": 8}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def remembering(layer: nn.Module, seed: int = 0) -> nn.Module:
    layer.running_mean.copy_(random(layer.num_features, seed=seed))
    layer.running_var.copy_(random(layer.num_features, seed=seed + 1).square() + 0.5)
    return layer.eval()


def test_the_divergence_is_torchs_own_of_normal_distributions():
    mean, running = random(7), random(7, seed=1)
    variance, running_variance = random(7, seed=2).square() + 0.1, random(7, seed=3).square() + 0.1
    ours = torch.distributions.Normal(mean, (variance + 1e-5).sqrt())
    theirs = torch.distributions.Normal(running, (running_variance + 1e-5).sqrt())
    expected = torch.distributions.kl_divergence(ours, theirs).mean()
    torch.testing.assert_close(divergence(mean, variance, running, running_variance), expected)
    assert divergence(running, running_variance, running, running_variance).abs() < 1e-7


def test_the_hinge_is_the_mean_over_same_class_pairs():
    rows, labels, share = random(9, 5), torch.tensor([0, 1, 0, 2, 1, 0, 1, 3, 1]), 0.8
    found = []
    for i in range(9):
        for j in range(i):
            if labels[i] == labels[j]:
                distance = sum((float(a) - float(b)) ** 2 for a, b in zip(rows[i], rows[j], strict=True)) / 10
                found.append(max(0.0, 1 - math.sqrt(distance / share)) ** 2)
    assert len(found) == 9  # three pairs of class 0 and six of class 1
    assert 0 < sum(found) / 9 < 1
    assert spread_hinge(rows, labels, share).item() == pytest.approx(sum(found) / 9, abs=1e-5)


def test_equal_pictures_pay_the_whole_hinge_and_still_feel_a_pull_apart():
    rows = (torch.ones(2, 4) + 1e-6 * random(2, 4)).requires_grad_()
    found = spread_hinge(rows, torch.zeros(2, dtype=torch.int64), 0.2)
    found.backward()
    assert found.item() == pytest.approx(1.0, abs=1e-3)
    assert rows.grad.isfinite().all()


def test_without_a_pair_and_beyond_the_share_nothing_pushes():
    rows = random(3, 4)
    assert spread_hinge(rows, torch.arange(3), 0.2).item() == 0
    assert spread_hinge(100 * rows, torch.zeros(3, dtype=torch.int64), 0.2).item() == 0


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.BatchNorm2d(3), (20000, 3, 1, 1)), (nn.BatchNorm1d(3), (20000, 3))],
    ids=["maps", "vectors"],
)
def test_two_draws_of_what_a_layer_remembers_are_at_distance_one(layer, shape):
    layer = remembering(layer)
    view = (1, -1, *(1,) * (len(shape) - 2))
    entered = random(*shape, seed=5) * layer.running_var.sqrt().view(view) + layer.running_mean.view(view)
    rows = standardised(layer, entered)
    first, second = rows[::2], rows[1::2]
    assert ((first - second).square().sum(1) / (2 * rows.shape[1])).mean().item() == pytest.approx(1.0, abs=0.03)


def test_pictures_move_by_no_more_than_the_settings_say():
    task, numbers = toys.toy_task("inversion"), torch.Generator().manual_seed(0)
    images = task.noise().sigmoid()
    still = NiReal(shift=0.0, rotation=0.0, zoom=0.0)._moved(images, numbers)
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)
    spot = torch.zeros(64, 1, 32, 32)
    spot[:, :, 15:17, 15:17] = 1.0
    moved = NiReal(shift=3 / 32, rotation=0.0, zoom=0.0)._moved(spot, numbers)
    places = torch.arange(32.0)
    down = (moved.sum((1, 3)) * places).sum(1) / moved.sum((1, 2, 3)) - 15.5
    assert down.abs().max() <= 3 + 1e-3
    assert down.max() > 2 and down.min() < -2


def test_it_starts_from_the_mean_of_the_subjects_normalisation():
    task, mean = toys.toy_task("inversion"), [0.1, 0.2, 0.3]
    model = Classifier(
        toys.toy_network(), name="toy", image_shape=toys.SHAPE, num_classes=10, mean=mean, std=[0.5] * 3, taps={}
    )
    task = task.replace(model=model)
    recipe = NiReal(**TINY, steps=1, step_size=1e-12)
    images = recipe.invert(task.replace(fitted=recipe.fit(task)))
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.tensor(mean), atol=0.01, rtol=0)


def test_hooks_are_gone_after_training_and_after_a_failure():
    task = toys.toy_task("inversion")
    NiReal(**TINY).fit(task)
    with pytest.raises(SetupError, match="no tap"):
        NiReal(**TINY, tap="nowhere").fit(task)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in task.model.network.modules())


def test_the_terms_are_those_of_the_images_that_the_subject_saw():
    task = toys.toy_task("inversion", count=20)
    recipe, images, labels = NiReal(), task.noise().sigmoid(), task.labels
    with watched(task.model) as seen, torch.no_grad():
        task.model(images)
        found = recipe._terms(labels, seen)
    network, inside = task.model.network, task.model.normalise(images)
    first = network.block1[0](inside)
    second = network.block2[0](network.block1(inside))
    expected = 0.0
    for layer, entered in ((network.block1[1], first), (network.block2[1], second)):
        variance, mean = torch.var_mean(entered, (0, 2, 3), correction=0)
        here = torch.distributions.Normal(mean, (variance + 1e-5).sqrt())
        there = torch.distributions.Normal(layer.running_mean, (layer.running_var + 1e-5).sqrt())
        expected += torch.distributions.kl_divergence(here, there).mean().item()
    assert found["statistics"].item() == pytest.approx(10 * expected, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share is 0.0"),
        ({"spread": -1.0}, "spread is -1.0"),
        ({"statistics": math.nan}, "statistics is nan"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(SetupError, match=message):
        NiReal(**settings).why_not(toys.toy_task("inversion"))


def test_a_subject_without_batch_norm_is_refused_with_the_reason(linear_classifier):
    model = linear_classifier(torch.ones(10, 3, 8, 8))
    task = toys.toy_task("inversion").replace(model=model)
    assert "needs BatchNorm" in NiReal().why_not(task)
