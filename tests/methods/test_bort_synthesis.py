"""Bort synthesis: closed form on linear networks, targets, bounds, budget, and the control that edits at random."""

import math

import numpy as np
import pytest
import torch

from bench.contract import AdversarialTask, Bound
from bench.zoo import networks
from methods.adversarial.bort_synthesis import BortSynthesis

BOUNDS = [pytest.param(Bound.parse(text), id=text) for text in ("linf_51_255", "l2_2_1", "none")]
RANDOM = BortSynthesis(random_edit=True)


def numbers(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_for(model, images, labels, references, reference_labels, *, bound, budget=60, seed=0):
    return AdversarialTask(
        model=model,
        places=torch.arange(len(images)),
        seed=seed,
        budget=budget,
        images=images,
        labels=labels,
        bound=bound,
        references=references,
        reference_labels=reference_labels,
    )


def attacked(method, task):
    return method.attack(task.replace(fitted=method.fit(task)))


def aimed_at(method, task):
    return method.describe(task.replace(fitted=method.fit(task)))["target_labels"]


@pytest.fixture
def linear_task(linear_classifier):
    """Three classes, 16 pixels, six images that the network has right, bounded so that no pixel reaches 0 or 1."""
    model = linear_classifier(numbers(0, 3, 1, 4, 4) - 0.5)
    references = 0.3 + 0.4 * numbers(1, 40, 1, 4, 4)
    images = 0.3 + 0.4 * numbers(2, 6, 1, 4, 4)
    return task_for(
        model, images, model(images).argmax(1), references, model(references).argmax(1), bound=Bound.parse("l2_1_5")
    )


@pytest.fixture
def digits_task(digits, digits_classifier):
    """Maker of a task with 100 digits that the network has not seen, and 200 references that it has."""
    images, labels = digits

    def make(bound, **changes):
        return task_for(
            digits_classifier, images[1200:1300], labels[1200:1300], images[:200], labels[:200], bound=bound, **changes
        )

    return make


# ---- what the attack does ------------------------------------------------------------------------------------------


def by_hand(task, image, label, channels, grid):
    """The docstring's formula for one image of a linear network, whose features are its pixels and whose g is 1."""
    weights = task.model.network[1].weight.double()
    logits = weights @ (2 * image.double().flatten() - 1)
    target = max((k for k in range(3) if k != label), key=lambda k: logits[k].item())
    prototype = torch.stack([x for x, y in zip(task.references, task.reference_labels, strict=True) if y == target])
    gap = (prototype.double().mean(0) - image).flatten()
    pull = weights[target] - weights[label]
    by_gain = sorted(range(16), key=lambda c: -(pull[c] * gap[c]).item())
    raised, rest = by_gain[:channels], by_gain[channels:]
    lowered = sorted(rest, key=lambda c: pull[c].item())[:channels]
    direction = torch.zeros(16).double()
    for channel in raised:
        direction[channel] = gap[channel]
    for channel in lowered:
        direction[channel] = min(0.0, gap[channel].item())
    direction = direction / math.sqrt(sum(value**2 for value in direction.tolist()))
    for step in range(1, grid + 1):
        found = image.flatten() + task.bound.size * step / grid * direction
        if (weights @ (2 * found - 1)).argmax() == target:
            break
    return target, found.view(1, 4, 4).float(), step


@pytest.mark.parametrize(("share", "channels"), [(0.0, 1), (0.25, 4), (0.5, 8)])
def test_on_a_linear_network_it_is_the_formula(linear_task, share, channels):
    method = BortSynthesis(share=share, grid=8)
    pairs = zip(linear_task.images, linear_task.labels.tolist(), strict=True)
    hand = [by_hand(linear_task, image, label, channels, 8) for image, label in pairs]
    assert aimed_at(method, linear_task).tolist() == [target for target, _, _ in hand]
    torch.testing.assert_close(attacked(method, linear_task), torch.stack([found for _, found, _ in hand]))
    assert len({step for _, _, step in hand}) > 1, "some reach the target before the end of the grid"


def test_all_channels_together_lead_straight_to_the_prototype(linear_task):
    method = BortSynthesis(share=1.0)
    targets = aimed_at(method, linear_task)
    for image, made, target in zip(linear_task.images, attacked(method, linear_task), targets, strict=True):
        way = linear_task.references[linear_task.reference_labels == target].mean(0) - image
        cosine = torch.cosine_similarity((made - image).flatten(), way.flatten(), dim=0)
        assert cosine.item() == pytest.approx(1, abs=1e-5)


def test_a_prototype_is_the_mean_of_the_references_that_are_right(linear_task):
    labels = linear_task.reference_labels.clone()
    of_class = [torch.nonzero(labels == k).flatten() for k in range(3)]
    labels[of_class[0][0]] = 1  # the subject says 0: does not count where others are right
    task = linear_task.replace(reference_labels=labels)
    known = BortSynthesis().fit(task)
    expected = (2 * linear_task.references[of_class[1]].mean(0) - 1).flatten()
    torch.testing.assert_close(known.prototypes[1], expected)


def test_of_a_class_that_is_never_right_all_references_count(linear_task):
    labels = torch.zeros_like(linear_task.reference_labels)
    labels[linear_task.reference_labels == 0] = 2
    known = BortSynthesis().fit(linear_task.replace(reference_labels=labels))
    expected = (2 * linear_task.references[labels == 2].mean(0) - 1).flatten()
    torch.testing.assert_close(known.prototypes[2], expected)


def test_a_class_without_references_is_never_a_target(linear_task):
    seen = linear_task.reference_labels != 1
    fewer = linear_task.replace(
        references=linear_task.references[seen], reference_labels=linear_task.reference_labels[seen]
    )
    assert 1 in aimed_at(BortSynthesis(), linear_task)
    assert 1 not in aimed_at(BortSynthesis(), fewer)


def test_images_that_are_wrong_or_have_no_target_come_back_bit_for_bit(linear_task):
    wrong = linear_task.replace(labels=(linear_task.labels + 1) % 3)
    assert torch.equal(attacked(BortSynthesis(), wrong), wrong.images)
    own = linear_task.reference_labels == linear_task.labels[0]
    alone = linear_task.replace(references=linear_task.references[own], reference_labels=torch.full((own.sum(),), 0))
    same = linear_task.labels == 0
    assert same.any()
    assert torch.equal(attacked(BortSynthesis(), alone)[same], alone.images[same])


# ---- rules of the track --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [BortSynthesis(), RANDOM], ids=["default", "random_edit"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_bound_and_range_are_kept_exactly(digits_task, method, bound):
    task = digits_task(bound)
    made = attacked(method, task)
    change = made.numpy().astype(np.float64) - task.images.numpy().astype(np.float64)
    largest = np.abs(change).max() if bound.norm == "linf" else np.sqrt((change**2).sum((1, 2, 3))).max()
    farthest = 8 * 8 / 28 if bound.norm == "none" else bound.size
    assert 0.5 * farthest < largest <= farthest * (1 + 1e-6 * (bound.norm == "none"))
    assert made.min() >= 0
    assert made.max() <= 1


def test_real_digits_become_the_class_it_names_more_often_than_by_a_random_edit(digits_task):
    task = digits_task(Bound.parse("l2_1_1"))
    right = task.model(task.images).argmax(1) == task.labels
    reached = []
    for method in (BortSynthesis(), RANDOM):
        given = task.model(attacked(method, task)).argmax(1)
        reached.append((given == aimed_at(method, task))[right].float().mean().item())
    assert reached[0] > reached[1] + 0.05 > 0.2


@pytest.mark.parametrize("method", [BortSynthesis(), RANDOM], ids=["default", "random_edit"])
def test_an_image_alone_comes_out_as_in_a_batch(digits_task, method):
    task = digits_task(Bound.parse("l2_2_1"))
    task = task.replace(fitted=method.fit(task))
    whole = method.attack(task)
    for row in (0, 41, 99):
        part = slice(row, row + 1)
        alone = task.replace(places=task.places[part], images=task.images[part], labels=task.labels[part])
        assert (method.attack(alone) - whole[part]).abs().max() <= 1e-6


def test_random_edits_differ_between_seeds_and_agree_within_one(digits_task):
    one, same, other = (attacked(RANDOM, digits_task(Bound.parse("l2_2_1"), seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("budget", "grid"), [(60, 16), (16, 8), (9, 1)])
def test_passes_are_those_announced_and_the_grid_fills_the_budget(digits_task, budget, grid):
    task = digits_task(Bound.parse("l2_2_1"), budget=budget)
    method = BortSynthesis()
    assert method.why_not(task) is None
    task = task.replace(fitted=method.fit(task))
    method.attack(task)
    method.describe(task)
    # references 2 (200 for 100 images), the gradient 2, a recording, two ways back, the description
    assert task.model.passes.total == 100 * (2 + 2 + 1 + 2 + 1 + grid)


def test_reasons_to_skip(digits_task, tiny_classifier):
    task = digits_task(Bound.parse("none"), budget=8)
    assert BortSynthesis().why_not(task) == "needs 9 passes an image, the budget is 8"
    tiny_classifier.network[0].padding_mode = "reflect"
    shut = task.replace(model=tiny_classifier, budget=100)
    assert "cannot follow" in BortSynthesis().why_not(shut) or "inverse step" in BortSynthesis().why_not(shut)
    assert tiny_classifier.passes.total == 0


@pytest.mark.parametrize("name", ["mlp", "resnet_mini", "deit_pico"])
def test_features_without_positions_and_tokens_are_edited_too(name):
    shape = (1, 16, 16)
    bare = networks.untrained(name, image_shape=shape, num_classes=4, mean=[0.5], std=[0.5], seed=0)
    model = networks.wrap(bare, name=name, num_classes=4, image_shape=shape)
    images, references = numbers(0, 6, *shape), numbers(1, 12, *shape)
    labels = model(images).argmax(1)
    known = torch.arange(12) % 4
    task = task_for(model, images, labels, references, known, bound=Bound.parse("l2_1_1"))
    for method in (BortSynthesis(), BortSynthesis(inverse="pinv")):
        assert method.why_not(task) is None
        made = attacked(method, task)
        assert ((made - images).flatten(1).norm(dim=1) > 0.01).all()
