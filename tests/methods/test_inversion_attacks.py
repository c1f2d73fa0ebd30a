"""Attacks by a conditioned generator: whom they aim at, what they look at, what they cost, and that they work."""

import pytest
import torch

from bench.contract import AdversarialTask, Bound, SetupError
from methods.adversarial.inversion_fooling import InversionFooling
from methods.adversarial.inversion_lookalikes import InversionLookalikes

SMALL = {"width": 2, "latent": 8, "batch_size": 20}
QUICK = SMALL | {"dropout": "none", "step_size": 1e-2}  # learns in tens of steps
ATTACKS = [
    pytest.param(InversionFooling(**SMALL), id="fooling"),
    pytest.param(InversionLookalikes(**SMALL), id="lookalikes"),
]
every_attack = pytest.mark.parametrize("attack", ATTACKS)


def numbers(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_for(model, *, count=30, budget=10, bound="none", seed=0, labels=None):
    labels = torch.arange(count) % model.num_classes if labels is None else labels
    images = numbers(1, count, *model.image_shape)
    return AdversarialTask(
        model=model,
        places=torch.arange(count),
        seed=seed,
        budget=budget,
        images=images,
        labels=labels,
        bound=Bound.parse(bound),
        references=images,
        reference_labels=labels,
    )


def part(task, rows):
    return task.replace(places=task.places[rows], images=task.images[rows], labels=task.labels[rows])


def ready(attack, task):
    return task.replace(fitted=attack.fit(task))


def aimed_at(attack, task):
    return attack.describe(task)["target_labels"]


@pytest.fixture
def bright_or_dark(linear_classifier):
    """Three classes of 16 pixels: the left half is bright, the right half is, or neither."""
    weights = torch.zeros(3, 1, 4, 4)
    weights[0, :, :, :2], weights[1, :, :, 2:], weights[2] = 3.0, 3.0, -3.0
    return linear_classifier(weights)


# ---- whom they aim at ----------------------------------------------------------------------------------------------


@every_attack
def test_the_true_class_is_never_aimed_at_and_every_other_one_is(tiny_classifier, attack):
    task = task_for(tiny_classifier, count=2000, labels=(10 * numbers(2, 2000)).long())
    pairs = set(zip(task.labels.tolist(), aimed_at(attack, task).tolist(), strict=True))
    assert pairs == {(true, wrong) for true in range(10) for wrong in range(10) if true != wrong}


def test_fooling_takes_each_wrong_class_equally_often(tiny_classifier):
    task = task_for(tiny_classifier, count=9000, labels=torch.full((9000,), 4))
    counts = torch.bincount(aimed_at(InversionFooling(), task), minlength=10)
    assert counts[4] == 0
    expected, spread = 1000, (9000 * 1 / 9 * 8 / 9) ** 0.5
    assert ((counts[counts > 0] - expected).abs() < 4 * spread).all()


def test_fooling_draws_another_class_for_another_seed_and_the_same_for_the_same(tiny_classifier):
    one, same, other = (aimed_at(InversionFooling(), task_for(tiny_classifier, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_lookalikes_take_the_classes_in_turn_and_skip_the_true_one(tiny_classifier):
    labels = torch.tensor([0, 5, 5, 3, 3, 3, 3, 3, 3, 9, 9, 1])
    aimed = aimed_at(InversionLookalikes(), task_for(tiny_classifier, count=12, labels=labels))
    assert aimed.tolist() == [1, 1, 2, 4, 4, 5, 6, 7, 8, 0, 0, 2]


# ---- what they make ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [InversionFooling(**QUICK), InversionLookalikes(**QUICK, lookalike=0.01)])
def test_images_are_of_the_class_aimed_at_with_confidence(bright_or_dark, attack):
    task = ready(attack, task_for(bright_or_dark, budget=70))
    sure = bright_or_dark(attack.attack(task)).softmax(1).gather(1, aimed_at(attack, task)[:, None])
    assert sure.min() > 0.9


@every_attack
def test_the_originals_decide_nothing_but_which_class_is_true(tiny_classifier, attack):
    task = task_for(tiny_classifier)
    other = task.replace(images=1 - task.images, references=1 - task.references)
    assert torch.equal(attack.attack(ready(attack, task)), attack.attack(ready(attack, other)))


@every_attack
def test_an_image_alone_comes_out_as_in_its_batch(tiny_classifier, attack):
    task = ready(attack, task_for(tiny_classifier))
    whole, aimed = attack.attack(task), aimed_at(attack, task)
    for row in (0, 13, 29):
        alone = part(task, slice(row, row + 1))
        assert (attack.attack(alone) - whole[row]).abs().max() <= 1e-6
        assert aimed_at(attack, alone) == aimed[row]


@every_attack
def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(tiny_classifier, attack):
    one, same, other = (
        attack.attack(ready(attack, task_for(tiny_classifier, seed=seed, budget=6))) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_group_of_lookalikes_shares_its_latent_and_another_group_has_its_own(tiny_classifier):
    attack = InversionLookalikes(**SMALL)
    labels = torch.full((30,), 9)  # the turns 0 to 8 of each group keep their class
    task = ready(attack, task_for(tiny_classifier, labels=labels))
    seen = []
    task.fitted.generator.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    attack.attack(task)
    latents = seen[0].view(3, 10, -1)
    assert torch.equal(latents, latents[:, :1].expand_as(latents))
    assert len(latents[:, 0].unique(dim=0)) == 3


def test_images_of_one_group_and_one_class_are_equal(tiny_classifier):
    attack = InversionLookalikes(**SMALL)
    task = ready(attack, task_for(tiny_classifier, labels=torch.full((10,), 3), count=10))
    made = attack.attack(task)
    assert aimed_at(attack, task)[3] == aimed_at(attack, task)[4] == 4
    torch.testing.assert_close(made[3], made[4])


def test_the_pull_brings_images_of_different_classes_together_and_keeps_their_classes(bright_or_dark):
    distances = []
    for pull in (0.0, 1.0, 10.0):
        attack = InversionLookalikes(**QUICK, lookalike=pull)
        task = ready(attack, task_for(bright_or_dark, budget=60))
        made, aimed = attack.attack(task), aimed_at(attack, task)
        assert torch.equal(bright_or_dark(made).argmax(1), aimed)
        cross = [(i, j) for i in range(30) for j in range(i) if aimed[i] != aimed[j]]
        distances.append(sum(((made[i] - made[j]) ** 2).mean().sqrt().item() for i, j in cross) / len(cross))
    assert distances[0] > 1.5 * distances[1] > 1.5 * 1.5 * distances[2]


# ---- rules of the track --------------------------------------------------------------------------------------------


@every_attack
def test_training_spends_the_budget_and_images_cost_nothing(tiny_classifier, attack):
    task = ready(attack, task_for(tiny_classifier, budget=10))
    spent = tiny_classifier.passes.total
    assert 300 - 2 * 20 < spent <= 300  # all of it but for what is left of a step
    attack.attack(task)
    attack.describe(task)
    assert tiny_classifier.passes.total == spent


@every_attack
@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        ("linf_8_255", "makes new images, a bound of linf 8/255 around the originals cannot hold"),
        ("l2_2_1", "makes new images, a bound of l2 2 around the originals cannot hold"),
    ],
)
def test_a_bound_is_a_reason_to_skip(tiny_classifier, attack, bound, reason):
    assert attack.why_not(task_for(tiny_classifier, bound=bound)) == reason


@every_attack
def test_reasons_to_skip_cost_nothing(tiny_classifier, linear_classifier, attack):
    assert attack.why_not(task_for(tiny_classifier, budget=10)) is None
    assert "the cell has 30" in attack.why_not(task_for(tiny_classifier, budget=1))
    single = linear_classifier(numbers(0, 1, 1, 4, 4))
    assert attack.why_not(task_for(single)) == "needs a wrong class, tiny has 1 classes"
    assert tiny_classifier.passes.total == single.passes.total == 0


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"dropout": "much"}, "dropout is 'much'"),
        ({"kl": -1.0}, "kl is -1.0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"width": 0}, "width is 0"),
    ],
)
@pytest.mark.parametrize("kind", [InversionFooling, InversionLookalikes])
def test_settings_out_of_range_are_refused_before_the_first_step(tiny_classifier, kind, settings, found):
    with pytest.raises(SetupError, match=found):
        kind(**settings).why_not(task_for(tiny_classifier))
    assert tiny_classifier.passes.total == 0


def test_a_negative_pull_is_refused(tiny_classifier):
    with pytest.raises(SetupError, match="lookalike is -1"):
        InversionLookalikes(lookalike=-1.0).why_not(task_for(tiny_classifier))
