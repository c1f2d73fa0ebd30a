"""SGD and AdamW: one step by hand, learning, running mean, and going on where an interrupted run stopped."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import ops
from bench.contract import Diverged, Recipe, TrainingTask
from methods.training.adamw import AdamW
from methods.training.sgd import SGD

METHODS = [SGD(), AdamW(step_size=0.01)]  # the default suits longer runs


class Stopped(Exception):
    """Stands for a killed process."""


class Memory:
    """A checkpoint that lives in memory and may stop the run right after a save."""

    def __init__(self, stop_after=math.inf):
        self.state, self.saves, self.stop_after = None, 0, stop_after

    def load(self):
        return copy.deepcopy(self.state)

    def save(self, state):
        self.state = copy.deepcopy(dict(state))
        self.saves += 1
        if self.saves >= self.stop_after:
            raise Stopped


def network(dropout=0.2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * 64, 10),
        )


@pytest.fixture
def task(digits):
    images, labels = digits
    return TrainingTask(
        network=network(),
        images=(255 * images[:300]).to(torch.uint8),
        labels=labels[:300],
        num_classes=10,
        recipe=Recipe(epochs=3, batch_size=50, augment="shift4_flip", ema=0.9),
        seed=0,
        device=torch.device("cpu"),
    )


@pytest.fixture
def save_each_step(monkeypatch):
    monkeypatch.setattr(ops, "SAVE_EVERY_SECONDS", -1.0)


def weights(trained):
    return {name: tensor.clone() for name, tensor in trained.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def one_step(task, method):
    """Weights before and gradients of the first step, and the trained network after exactly one step."""
    recipe = Recipe(epochs=1, batch_size=len(task.images), warmup_epochs=0.0)
    task = task.replace(network=network(dropout=0.0), recipe=recipe)
    start = copy.deepcopy(task.network).train()
    F.cross_entropy(start(task.images.float() / 255), task.labels).backward()
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in start.named_parameters()}
    return before, dict(method.train(task).named_parameters())


def test_a_step_of_sgd_is_the_one_by_hand(task):
    before, after = one_step(task, SGD(step_size=0.1, momentum=0.9, weight_decay=0.01))
    for name, (start, gradient) in before.items():
        if start.ndim >= 2:
            gradient = gradient + 0.01 * start
        momentum = gradient  # after one step
        expected = start - 0.1 * (gradient + 0.9 * momentum)
        assert torch.allclose(after[name], expected, atol=1e-6), name


def test_a_step_of_adamw_is_the_one_by_hand(task):
    before, after = one_step(task, AdamW(step_size=0.01, weight_decay=0.5))
    for name, (start, gradient) in before.items():
        decayed = start * (1 - 0.01 * 0.5) if start.ndim >= 2 else start
        expected = decayed - 0.01 * gradient / (gradient.abs() + 1e-8)
        # elsewhere rounding decides the sign: all of the first bias, which BatchNorm takes away again
        clear = gradient.abs() > 1e-5
        assert clear.any() or name == "0.bias"
        assert torch.allclose(after[name][clear], expected[clear], atol=1e-5), name


@pytest.mark.parametrize("method", METHODS)
def test_real_digits_are_learned(task, digits, method):
    task = task.replace(recipe=Recipe(epochs=12, batch_size=50))
    trained = method.train(task)
    images, labels = (whole[300:800] for whole in digits)
    assert not trained.training
    assert (trained(images).argmax(1) == labels).float().mean() > 0.7  # an untrained one has 0.1


@pytest.mark.parametrize("method", METHODS)
def test_the_log_says_how_the_loss_falls(task, method):
    lines = []
    method.train(task.replace(note=lines.append))
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    losses = [float(line.split()[-1]) for line in lines]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [1, 5, 6, 7, 17])
def test_an_interrupted_run_goes_on_bit_for_bit(task, method, stop, save_each_step):
    whole = weights(method.train(task.replace(network=network())))
    memory = Memory(stop_after=stop)
    with pytest.raises(Stopped):
        method.train(task.replace(network=network(), checkpoint=memory))
    assert memory.state["step"] == stop
    memory.stop_after = math.inf
    torch.rand(stop)  # the new process has another global generator
    assert_same(weights(method.train(task.replace(network=network(), checkpoint=memory))), whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_checkpoint_gives_the_finished_network(task, method, save_each_step):
    memory = Memory()
    whole = weights(method.train(task.replace(network=network(), checkpoint=memory)))
    assert_same(weights(method.train(task.replace(network=network(), checkpoint=memory))), whole)


@pytest.mark.parametrize("method", METHODS)
def test_seeds_decide_the_outcome(task, method):
    one, same, other = (weights(method.train(task.replace(network=network(), seed=seed))) for seed in (0, 0, 1))
    assert_same(one, same)
    assert not torch.equal(one["5.weight"], other["5.weight"])


@pytest.mark.parametrize("method", METHODS)
def test_global_generators_are_left_as_found(task, method):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    method.train(task)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_running_mean_is_the_recursion_by_hand(task, save_each_step):
    """w̄ ← 0.9 w̄ + 0.1 w after each step, started at the weights of the first."""
    seen = []

    class Watcher(Memory):
        def save(self, state):
            seen.append(state["network"]["5.weight"].clone())

    averaged = SGD().train(task.replace(checkpoint=Watcher()))
    mean = seen[0]
    for weight in seen[1:]:
        mean = 0.9 * mean + 0.1 * weight
    assert len(seen) == 18
    assert torch.allclose(averaged.state_dict()["5.weight"], mean, atol=1e-6)
    assert not torch.allclose(averaged.state_dict()["5.weight"], seen[-1], atol=1e-4)


def test_a_loss_that_is_not_finite_is_called_diverged(task):
    with pytest.raises(Diverged, match="training loss is nan at the end of epoch"):
        SGD(step_size=1e30).train(task)


# ---- which images a step sees --------------------------------------------------------------------------------------


class Eye(nn.Module):
    """Keeps the first pixel of every image that it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10))
        self.seen = []

    def forward(self, images):
        self.seen.append((255 * images[:, 0, 0, 0]).round().long())
        return images.mean((1, 2, 3))[:, None] * self.weight


def numbered(count, batch_size, seed=3):
    """A task whose image n is all n, so that what was seen can be told."""
    return TrainingTask(
        network=Eye(),
        images=torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4),
        labels=torch.zeros(count, dtype=torch.int64),
        num_classes=10,
        recipe=Recipe(epochs=3, batch_size=batch_size),
        seed=seed,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(30, 7, 12), (30, 10, 9), (6, 8, 3)])
def test_the_places_of_a_step_are_the_images_that_fit_shows_in_it(count, batch_size, steps):
    task = numbered(count, batch_size)
    SGD().train(task)
    assert len(task.network.seen) == steps
    for step, seen in enumerate(task.network.seen):
        assert torch.equal(ops.places_of_step(task, step), seen)
    assert not torch.equal(ops.places_of_step(numbered(count, batch_size, seed=4), 0), task.network.seen[0])


def test_the_places_of_a_step_are_those_of_a_run_that_was_continued(save_each_step):
    memory = Memory(stop_after=5)
    with pytest.raises(Stopped):
        SGD().train(numbered(30, 7).replace(checkpoint=memory))
    memory.stop_after = math.inf
    rest = numbered(30, 7).replace(checkpoint=memory)
    SGD().train(rest)
    assert len(rest.network.seen) == 12 - 5
    for step, seen in enumerate(rest.network.seen, start=5):
        assert torch.equal(ops.places_of_step(rest, step), seen)
