"""DeepFool and Carlini & Wagner: closed forms on linear networks, images that cannot be fooled, bounds, budget."""

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bench import registry
from bench.contract import AdversarialTask, Bound, SetupError, ShapeError, Unsupported
from bench.zoo.classifier import Classifier
from methods.adversarial.carlini_wagner import CarliniWagner
from methods.adversarial.deepfool import DeepFool

FREE = Bound.parse("none")
ATTACKS = [DeepFool(), DeepFool(norm="linf"), CarliniWagner(step_size=0.2)]


def numbers(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_for(model, *, bound=FREE, count=5, budget=200, images=None, labels=None):
    """Labels are what the model says, unless given."""
    images = numbers(1, count, *model.image_shape) if images is None else images
    if labels is None:
        with torch.no_grad():
            labels = model(images).argmax(1)
        model.passes.forward = 0
    places = torch.arange(len(images))
    known = {"references": images, "reference_labels": labels}
    return AdversarialTask(
        model=model, places=places, seed=0, budget=budget, images=images, labels=labels, bound=bound, **known
    )


def part(task, rows):
    return task.replace(places=task.places[rows], images=task.images[rows], labels=task.labels[rows])


def fooled(task, images):
    with torch.no_grad():
        return task.model(images).argmax(1) != task.labels


def distances_to_boundaries(weights, task, norm):
    """Of each image the way to the nearest boundary, by the formula for a hyperplane, one image at a time."""
    found = []
    for image, label in zip(task.images, task.labels.tolist(), strict=True):
        logits = [(weight * (image - 0.5)).sum() for weight in weights]
        ways = []
        for other in set(range(len(weights))) - {label}:
            normal = (weights[other] - weights[label]).flatten()
            gap = logits[label] - logits[other]
            ways.append((gap / (normal.norm() if norm == "l2" else normal.abs().sum())).item())
        found.append(min(ways))
    return found


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_on_a_linear_network_goes_the_shortest_way_and_two_percent_further(linear_classifier, norm):
    weights = numbers(0, 4, 1, 4, 4) - 0.5
    task = task_for(linear_classifier(weights), images=0.4 + 0.2 * numbers(1, 5, 1, 4, 4))
    attacked = DeepFool(norm=norm).attack(task)
    change = (attacked - task.images).flatten(1)
    size = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
    expected = [1.02 * way for way in distances_to_boundaries(weights, task, norm)]
    assert size.tolist() == pytest.approx(expected, rel=1e-2, abs=5e-4)  # foolbox adds 1e-4 of a logit's gap
    assert fooled(task, attacked).all()


def test_carlini_wagner_on_a_linear_network_comes_close_to_the_shortest_way(linear_classifier):
    weights = numbers(0, 2, 1, 4, 4) - 0.5
    task = task_for(linear_classifier(weights), images=0.3 + 0.4 * numbers(1, 5, 1, 4, 4), budget=18 * 100)
    attacked = CarliniWagner(step_size=0.004).attack(task)
    size = (attacked - task.images).flatten(1).norm(dim=1)
    shortest = torch.tensor(distances_to_boundaries(weights, task, "l2"))
    assert fooled(task, attacked).all()
    assert (size >= shortest * (1 - 1e-4)).all()
    assert (size <= 1.02 * shortest + 0.002).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_real_digits_are_fooled_by_little(digits, digits_classifier, attack):
    images = digits[0][1200:1240]
    task = task_for(digits_classifier, images=images, budget=360)
    attacked = attack.attack(task)
    wins = fooled(task, attacked)
    assert wins.double().mean() > 0.9
    assert (attacked - images).flatten(1).norm(dim=1)[wins].mean() < 0.35 * images.flatten(1).norm(dim=1).mean()


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_image_that_nothing_fools_comes_back_finite_and_harms_no_other(attack):
    """The network says class 0 to all that is bright in the corner, whatever else the picture shows."""

    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 2, bias=False)
            nn.init.constant_(self.head.weight, 1.0)
            with torch.no_grad():
                self.head.weight[0] *= -1

        def forward(self, images):
            sure = 1e3 * (images.detach()[:, 0, 0, 0] > 0.9).float()[:, None] * torch.tensor([1.0, 0.0])
            return self.head(images.flatten(1)) + sure

    model = Classifier(Corner(), name="corner", image_shape=(1, 4, 4), num_classes=2, mean=[0.5], std=[0.5], taps={})
    images = torch.full((2, 1, 4, 4), 0.45)
    images[0, 0, 0, 0] = 1.0 if isinstance(attack, CarliniWagner) else 0.95
    task = task_for(model, images=images)
    attacked = attack.attack(task)
    assert attacked.isfinite().all()
    assert fooled(task, attacked)[1]
    assert torch.equal(attacked[1:], attack.attack(part(task, slice(1, 2))))


def test_carlini_wagner_gives_the_original_where_it_finds_nothing(linear_classifier):
    model = linear_classifier(torch.zeros(2, 1, 4, 4))  # all logits are equal: the answer is always 0
    task = task_for(model)
    assert torch.equal(CarliniWagner().attack(task), task.images)


@pytest.mark.parametrize("attack", [DeepFool(), DeepFool(norm="linf")], ids=str)
def test_deepfool_leaves_alone_what_is_wrong_already(tiny_classifier, attack):
    task = task_for(tiny_classifier)
    labels = task.labels.clone()
    labels[::2] = (labels[::2] + 1) % 10
    attacked = attack.attack(task.replace(labels=labels))
    same = (attacked == task.images).flatten(1).all(1)
    assert same.tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
@pytest.mark.parametrize("bound", ["linf_1_255", "l2_1_20"])
def test_a_bound_is_kept_exactly_by_projection(tiny_classifier, attack, bound):
    limit = Bound.parse(bound)
    task = task_for(tiny_classifier, count=12)
    free, kept = attack.attack(task), attack.attack(task.replace(bound=limit))
    sizes = []
    for images in (free, kept):
        change = (images.double() - task.images.double()).flatten(1)
        sizes.append(change.abs().amax(1) if limit.norm == "linf" else change.norm(dim=1))
    inside = sizes[0] <= limit.size
    assert not inside.all()
    assert torch.equal(free[inside], kept[inside])
    assert (sizes[1] <= limit.size).all()
    assert sizes[1][~inside].tolist() == pytest.approx([limit.size] * int((~inside).sum()), rel=1e-4)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_bound_zero_gives_the_image_back_bit_for_bit(tiny_classifier, attack):
    task = task_for(tiny_classifier, bound=Bound("l2", 0.0))
    assert torch.equal(attack.attack(task), task.images)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_image_alone_comes_out_as_in_a_batch(tiny_classifier, attack):
    task = task_for(tiny_classifier, count=11)
    alone = torch.cat([attack.attack(part(task, slice(row, row + 1))) for row in range(11)])
    assert (attack.attack(task) - alone).abs().max() <= 1e-6


def test_carlini_wagner_spends_two_passes_a_step_and_constant(tiny_classifier):
    CarliniWagner(searches=4).attack(task_for(tiny_classifier, budget=41))
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (5 * 4 * 5, 5 * 4 * 5)


@pytest.mark.parametrize(("candidates", "steps"), [(10, 2), (3, 10), (99, 2)])
def test_deepfool_spends_two_passes_for_each_other_candidate_and_step(linear_classifier, candidates, steps):
    model = linear_classifier(torch.zeros(10, 1, 4, 4))  # nothing can be fooled, no step is spared
    DeepFool(candidates=candidates).attack(task_for(model, budget=41, count=3))
    others = min(candidates, 10) - 1
    assert (model.passes.forward, model.passes.backward) == (3 * (1 + steps * others), 3 * steps * others)


def test_deepfool_takes_no_more_steps_than_it_is_told(linear_classifier):
    model = linear_classifier(torch.zeros(2, 1, 4, 4))
    DeepFool(steps=7).attack(task_for(model, budget=1000, count=1))
    assert model.passes.backward == 7


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_global_generators_are_left_as_found(tiny_classifier, attack):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    attack.attack(task_for(tiny_classifier))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.parametrize(("attack", "passes"), [(DeepFool(), 19), (DeepFool(candidates=2), 3), (CarliniWagner(), 18)])
def test_reasons_to_skip(tiny_classifier, linear_classifier, attack, passes):
    task = task_for(tiny_classifier, budget=passes - 1)
    assert attack.why_not(task) == f"needs {passes} passes an image, the budget is {passes - 1}"
    assert attack.why_not(task.replace(budget=passes)) is None
    attack.attack(task.replace(budget=passes))
    one = task_for(linear_classifier(torch.zeros(1, 1, 4, 4)))
    assert attack.why_not(one) == "needs a wrong class, tiny has 1 classes"


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        (DeepFool(candidates=1), "candidates should be at least 2, got 1"),
        (CarliniWagner(searches=0), "searches should be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_attack_are_refused(tiny_classifier, attack, line):
    with pytest.raises(SetupError, match=line):
        attack.why_not(task_for(tiny_classifier))


def test_images_out_of_range_are_refused_with_the_range_found(tiny_classifier):
    task = task_for(tiny_classifier, images=2 * numbers(1, 2, 3, 8, 8).round())
    with pytest.raises(ShapeError, match=r"images should be intensities in \[0, 1\], got \[0, 2\]"):
        DeepFool().attack(task)


@pytest.mark.parametrize("name", ["bim", "deepfool", "carlini_wagner"])
def test_without_foolbox_they_are_unsupported(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    shared = ("methods.adversarial._foolbox", "methods.adversarial._smallest")
    for module in ("foolbox.attacks", "foolbox.attacks.base", f"methods.adversarial.{name}", *shared):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(Unsupported, match=r"^needs foolbox$"):
        registry.load_method(f"adversarial/{name}")
