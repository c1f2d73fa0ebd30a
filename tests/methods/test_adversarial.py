"""FGSM and PGD: closed forms on linear networks, bounds, budget, independence of the batch."""

import math
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench import registry
from bench.contract import AdversarialTask, Bound, ShapeError, Unsupported
from bench.ops import within_bound, wrong_class_margin
from methods.adversarial.fgsm import FGSM
from methods.adversarial.pgd import PGD

LINF = Bound.parse("linf_8_255")
L2 = Bound.parse("l2_1_2")
ATTACKS = [
    pytest.param(attack, bound, id=f"{attack.__name__}-{bound.norm}") for attack in (FGSM, PGD) for bound in (LINF, L2)
]


def numbers(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_for(model, *, bound, count=6, budget=20, seed=0, images=None, labels=None):
    images = numbers(1, count, *model.image_shape) if images is None else images
    labels = torch.arange(len(images)) % model.num_classes if labels is None else labels
    places = torch.arange(len(images))
    known = {"references": images, "reference_labels": labels}
    return AdversarialTask(
        model=model, places=places, seed=seed, budget=budget, images=images, labels=labels, bound=bound, **known
    )


def part(task, rows):
    return task.replace(places=task.places[rows], images=task.images[rows], labels=task.labels[rows])


def steepest(weights, labels):
    """Gradient of the other class's logit minus the label's, for two classes."""
    return torch.stack([weights[1 - label] - weights[label] for label in labels.tolist()])


def test_fgsm_on_a_linear_network_steps_along_the_sign_of_its_weights(linear_classifier):
    weights = numbers(0, 2, 1, 4, 4) - 0.5
    task = task_for(linear_classifier(weights), bound=LINF, images=0.3 + 0.4 * numbers(1, 6, 1, 4, 4))
    expected = task.images + 8 / 255 * steepest(weights, task.labels).sign()
    assert torch.allclose(FGSM().attack(task), expected, atol=1e-6)


def test_fgsm_on_a_linear_network_steps_along_its_weights_for_l2(linear_classifier):
    weights = numbers(0, 2, 1, 4, 4) - 0.5
    task = task_for(linear_classifier(weights), bound=L2, images=0.5 * torch.ones(6, 1, 4, 4))
    direction = steepest(weights, task.labels)
    expected = task.images + 0.5 * direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
    assert torch.allclose(FGSM().attack(task), expected, atol=1e-6)


@pytest.mark.parametrize("bound", [LINF, L2], ids=["linf", "l2"])
def test_pgd_on_a_linear_network_ends_where_the_loss_is_largest(linear_classifier, bound):
    weights = numbers(0, 2, 1, 4, 4) - 0.5
    images = 0.5 * torch.ones(6, 1, 4, 4)
    task = task_for(linear_classifier(weights), bound=bound, images=images, budget=100)
    best = FGSM().attack(task)  # exact for a linear network
    found = PGD(travel=10.0).attack(task)  # on a sphere the way to the best point is longer than 2.5 radii
    gain = wrong_class_margin(task.model(found), task.labels)
    assert gain.tolist() == pytest.approx(wrong_class_margin(task.model(best), task.labels).tolist(), rel=1e-3)


def test_fgsm_equals_the_textbook_with_cross_entropy_where_the_network_is_not_certain(tiny_classifier):
    task = task_for(tiny_classifier, bound=LINF)
    images = task.images.clone().requires_grad_()
    F.cross_entropy(tiny_classifier.network((images - 0.5) / 0.5), task.labels, reduction="sum").backward()
    expected = (task.images + 8 / 255 * images.grad.sign()).clamp(0, 1)
    differs = (FGSM().attack(task) - expected).abs() > 1e-6
    assert differs.float().mean() < 0.01  # signs of numbers close to 0


def test_attacks_move_images_of_which_the_network_is_certain(linear_classifier):
    weights = torch.stack([torch.full((1, 4, 4), 100.0), torch.full((1, 4, 4), -100.0)])
    model = linear_classifier(weights)
    task = task_for(model, bound=LINF, images=0.9 * torch.ones(1, 1, 4, 4), labels=torch.tensor([0]))
    assert model(task.images).softmax(1)[0, 0] == 1.0  # where the cross-entropy's gradient is exactly 0
    assert torch.allclose(FGSM().attack(task), task.images - 8 / 255, atol=1e-6)


@pytest.mark.parametrize(("attack", "bound"), ATTACKS)
def test_attacks_lower_the_accuracy_on_real_digits(digits, digits_classifier, attack, bound):
    images, labels = (whole[1200:1300] for whole in digits)
    wide = Bound(bound.norm, 5 * bound.size)
    attacked = attack().attack(task_for(digits_classifier, bound=wide, images=images, labels=labels))
    before, after = ((digits_classifier(x).argmax(1) == labels).float().mean().item() for x in (images, attacked))
    assert before > 0.85
    assert after < before - 0.3


def test_pgd_fools_at_least_as_often_as_fgsm_on_real_digits(digits, digits_classifier):
    images, labels = (whole[1200:1300] for whole in digits)
    task = task_for(digits_classifier, bound=Bound("linf", 0.15), images=images, labels=labels, budget=40)
    right = [(digits_classifier(kind().attack(task)).argmax(1) == labels).sum().item() for kind in (FGSM, PGD)]
    assert right[1] <= right[0]


@pytest.mark.parametrize(("attack", "bound"), ATTACKS)
def test_bound_and_range_are_kept_exactly(tiny_classifier, attack, bound):
    task = task_for(tiny_classifier, bound=bound, count=20, images=numbers(3, 20, 3, 8, 8).round(decimals=1))
    attacked = attack().attack(task)
    change = attacked.numpy().astype(np.float64) - task.images.numpy().astype(np.float64)
    largest = np.abs(change).max() if bound.norm == "linf" else np.sqrt((change**2).sum((1, 2, 3))).max()
    assert 0.9 * bound.size < largest <= bound.size
    assert attacked.min() >= 0
    assert attacked.max() <= 1


@pytest.mark.parametrize(("attack", "bound"), ATTACKS)
def test_bound_zero_gives_the_image_back_bit_for_bit(tiny_classifier, attack, bound):
    task = task_for(tiny_classifier, bound=Bound(bound.norm, 0.0))
    assert torch.equal(attack().attack(task), task.images)


@pytest.mark.parametrize(("attack", "bound"), ATTACKS)
def test_an_image_alone_comes_out_as_in_a_batch(tiny_classifier, attack, bound):
    task = task_for(tiny_classifier, bound=bound, count=11)
    alone = torch.cat([attack().attack(part(task, slice(row, row + 1))) for row in range(11)])
    assert (attack().attack(task) - alone).abs().max() <= 1e-6


@pytest.mark.parametrize(("attack", "spent"), [(FGSM, 2), (PGD, 20)])
def test_passes_spent_are_those_announced(tiny_classifier, attack, spent):
    task = task_for(tiny_classifier, bound=LINF, budget=21)
    attack().attack(task)
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (6 * spent // 2, 6 * spent // 2)


def test_pgd_starts_differ_between_seeds_and_agree_within_one(tiny_classifier):
    one, same, other = (PGD().attack(task_for(tiny_classifier, bound=LINF, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("bound", "law"), [(LINF, "cube"), (L2, "ball")])
def test_pgd_starts_are_uniform_in_the_ball(linear_classifier, bound, law):
    model = linear_classifier(torch.zeros(2, 1, 2, 2))  # no gradient: the start stays
    images = 0.5 * torch.ones(4000, 1, 2, 2)
    start = (PGD().attack(task_for(model, bound=bound, images=images, budget=2)) - images).flatten(1) / bound.size
    radius = start.abs().amax(1) if law == "cube" else start.norm(dim=1)
    # in 4 dimensions the share of the volume within radius r is r⁴, whatever the norm
    for r in (0.5, 0.7, 0.9):
        assert (radius < r).double().mean().item() == pytest.approx(r**4, abs=4 * math.sqrt(r**4 * (1 - r**4) / 4000))
    assert start.mean(0).abs().max() < 0.05


@pytest.mark.parametrize(("attack", "bound"), ATTACKS)
def test_global_generators_are_left_as_found(tiny_classifier, attack, bound):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    attack().attack(task_for(tiny_classifier, bound=bound))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_foolbox_has_nothing_to_warn_of(tiny_classifier):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FGSM().attack(task_for(tiny_classifier, bound=LINF))


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_without_foolbox_they_are_unsupported(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    for module in ("foolbox.attacks", f"methods.adversarial.{name}", "methods.adversarial._foolbox"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(Unsupported, match=r"^needs foolbox$"):
        registry.load_method(f"adversarial/{name}")


@pytest.mark.parametrize("attack", [FGSM(), PGD()])
def test_reasons_to_skip(tiny_classifier, attack):
    task = task_for(tiny_classifier, bound=Bound.parse("none"))
    assert attack.why_not(task) == "needs a bound (linf or l2), the condition has none"
    assert attack.why_not(task.replace(bound=LINF, budget=1)) == "needs 2 passes an image, the budget is 1"
    assert attack.why_not(task.replace(bound=LINF, budget=2)) is None


def test_images_out_of_range_are_refused_with_the_range_found(tiny_classifier):
    task = task_for(tiny_classifier, bound=LINF, images=2 * numbers(1, 2, 3, 8, 8).round())
    with pytest.raises(ShapeError, match=r"images should be intensities in \[0, 1\], got \[0, 2\]"):
        FGSM().attack(task)


def test_margin_is_the_log_odds_against_the_label():
    logits, labels = 4 * numbers(0, 5, 3), torch.tensor([0, 1, 2, 0, 1])
    for row, label, margin in zip(logits.tolist(), labels.tolist(), wrong_class_margin(logits, labels), strict=True):
        right = math.exp(row[label]) / sum(math.exp(value) for value in row)
        assert margin.item() == pytest.approx(math.log((1 - right) / right), rel=1e-5)


def test_within_bound_leaves_images_inside_alone_and_takes_others_to_the_edge():
    originals = torch.full((2, 1, 1, 2), 0.5)
    images = torch.tensor([[0.6, 0.5], [0.5 + 3.0, 0.5 - 4.0]]).reshape(2, 1, 1, 2)
    linf = within_bound(images, originals, Bound("linf", 0.25))
    assert linf.flatten().tolist() == pytest.approx([0.6, 0.5, 0.75, 0.25])
    l2 = within_bound(images, originals, Bound("l2", 0.25))
    assert l2.flatten().tolist() == pytest.approx([0.6, 0.5, 0.65, 0.3])
    assert torch.equal(linf[0], images[0])
    assert torch.equal(l2[0], images[0])
    assert within_bound(images, originals, Bound.parse("none")).flatten().tolist() == pytest.approx([0.6, 0.5, 1, 0])
