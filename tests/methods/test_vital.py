"""VITAL: the official loss and loop by independent code, references, taps and weights, jitter, budget, bad requests."""

import math

import pytest
import torch

from bench.contract import Diverged, PassCounter, SetupError, VisualizationTask
from bench.zoo import networks
from bench.zoo.classifier import Classifier
from methods.visualization.vital import Vital

TAPS = {"block1": 3, "block2": 6}  # of the small networks of conftest.py: name → place in the stack


def task_for(model, references, labels, *, targets=range(4), budget=40, seed=0):
    targets = torch.tensor(list(targets))
    return VisualizationTask(
        model=model,
        places=torch.arange(len(targets)),
        seed=seed,
        budget=budget,
        kind="class",
        tap=None,
        targets=targets,
        references=references,
        reference_labels=labels,
    )


def fitted(method, task):
    return task.replace(fitted=method.fit(task))


def part(task, chosen):
    return task.replace(places=task.places[chosen], targets=task.targets[chosen])


@pytest.fixture
def digits_task(digits, digits_classifier):
    images, labels = digits
    return task_for(digits_classifier, images[:60], labels[:60])


@pytest.fixture
def tiny_task(tiny_classifier):
    references = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return task_for(tiny_classifier, references, torch.arange(20) % 5)


# ---- the specification, written a second time for one image --------------------------------------------------------


def features_of(model, inside):
    """Tap → (C, D) of one normalised image, module by module."""
    seen, passing = {}, inside[None]
    for place, module in enumerate(model.network[: max(TAPS.values()) + 1]):
        passing = module(passing)
        seen |= {tap: passing[0].flatten(1) for tap, where in TAPS.items() if where == place}
    return seen


def reference_targets(model, references):
    means = {}
    for tap in TAPS:
        every = [features_of(model, model.normalise(image[None])[0])[tap] for image in references]
        means[tap] = sum(features.sort(dim=1)[0] for features in every) / len(every)
    return means


def official_loss(model, inside, targets, weights, smoothness=0.0, length=0.0):
    """Two sorts a tap: each value is compared with the target of its rank."""
    total = torch.zeros(())
    for tap, weight in weights.items():
        features = features_of(model, inside)[tap]
        rank = features.detach().argsort(dim=1, stable=True).argsort(dim=1)
        total = total + weight * ((features - targets[tap].gather(1, rank)) ** 2).mean()
    channels, height, width = inside.shape
    for down, right in ((0, 1), (1, 0), (1, -1), (1, 1)):
        squares = [
            (inside[c, i + down, j + right] - inside[c, i, j]) ** 2
            for c in range(channels)
            for i in range(height - down)
            for j in range(width)
            if 0 <= j + right < width
        ]
        total = total + smoothness * torch.stack(squares).sum().sqrt()
    return total + length * (inside**2).sum().sqrt()


def official_loop(model, inside, moves, targets, weights, *, reach, warmup, low, high, flip=False, **penalties):
    """Shift, mirror, gradient, Adam with betas 0.5 and 0.9 written out, warm-up, half a cosine, clip."""
    first, second = torch.zeros_like(inside), torch.zeros_like(inside)
    for step, (down, right, side) in enumerate(moves.tolist()):
        leaf = inside.clone().requires_grad_()
        way = [math.floor(number * (2 * reach + 1)) - reach for number in (down, right)]
        shown = torch.roll(leaf, way, dims=(1, 2))
        shown = shown[:, :, list(reversed(range(shown.shape[2])))] if flip and side < 0.5 else shown
        official_loss(model, shown, targets, weights, **penalties).backward()
        first, second = 0.5 * first + 0.5 * leaf.grad, 0.9 * second + 0.1 * leaf.grad**2
        unbiased = first / (1 - 0.5 ** (step + 1)), second / (1 - 0.9 ** (step + 1))
        if step < warmup:
            rate = (step + 1) / warmup
        else:
            rate = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (len(moves) - warmup)))
        inside = (inside - rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)).clamp(low, high)
    return inside


PENALTIES = {"smoothness": 0.003, "length": 0.002}


def test_loss_and_gradient_are_the_official_ones(digits_task):
    method, model = Vital(weights="0.1 7", **PENALTIES), digits_task.model
    known = fitted(method, digits_task).fitted
    shown = digits_task.noise()[:1].requires_grad_()
    features = {tap: features_of(model, shown[0])[tap][None] for tap in TAPS}
    loss = method._loss(shown, features, {tap: known.targets[tap][2:3] for tap in TAPS}, known.weights[2:3])
    own = reference_targets(model, digits_task.references[digits_task.reference_labels == 2])
    inside = shown.detach()[0].clone().requires_grad_()
    scaled = {name: weight * 224 / 8 for name, weight in PENALTIES.items()}  # given for 224 pixels, shown on 8
    official = official_loss(model, inside, own, {"block1": 0.1, "block2": 7.0}, **scaled)
    assert loss.item() == pytest.approx(official.item(), rel=1e-5)
    slope = torch.autograd.grad(loss.sum(), shown)[0][0]
    gradient = torch.autograd.grad(official, inside)[0]
    assert (slope - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize(
    ("penalties", "flip"), [({}, False), (PENALTIES, False), ({}, True)], ids=["bare", "penalised", "mirrored"]
)
def test_the_first_ten_steps_are_those_of_the_official_loop(digits_task, penalties, flip):
    """Later ones are chaotic: rounding grows about tenfold in three steps."""
    method, place = Vital(weights="1 2", warmup=0.3, flip=flip, **penalties), 3
    task = fitted(method, digits_task.replace(budget=7 + 2 * 10))  # 26 references are shared by four images
    targets = reference_targets(task.model, task.references[task.reference_labels == place])
    inside = official_loop(
        task.model,
        task.noise()[place],
        task.draws("moves", 10, 3, law="uniform")[place],
        targets,
        {"block1": 1.0, "block2": 2.0},
        reach=1,  # ⌊30 · 8 / 224⌋
        warmup=3,
        low=-1.0,  # black and white, with mean and deviation 0.5
        high=1.0,
        flip=flip,
        **{name: weight * 28 for name, weight in penalties.items()},
    )
    torch.testing.assert_close(method.visualize(task)[place], (inside + 1) / 2, atol=1e-4, rtol=0)


def test_distributions_come_closer_than_those_of_real_images(digits, digits_task):
    task = fitted(Vital(), digits_task.replace(budget=120))
    images, labels = digits
    held_out = torch.stack([images[600:][labels[600:] == target][0] for target in task.targets.tolist()])

    def distance(shown):
        losses = []
        for target, image in zip(task.targets.tolist(), shown, strict=True):
            targets = {tap: task.fitted.targets[tap][target] for tap in TAPS}
            inside = task.model.normalise(image[None])[0]
            losses.append(official_loss(task.model, inside, targets, dict.fromkeys(TAPS, 1.0)))
        return torch.stack(losses)

    reached = distance(Vital().visualize(task))
    assert (reached < distance(held_out)).all()


def test_pictures_have_the_colour_of_their_class(tiny_classifier):
    colours = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.9, 0.2], [0.2, 0.2, 0.9]])
    labels = torch.arange(30) % 3
    noise = 0.1 * torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    task = task_for(tiny_classifier, colours[labels][:, :, None, None] + noise, labels, targets=range(3), budget=140)
    shown = Vital().visualize(fitted(Vital(), task))
    assert shown.mean((2, 3)).argmax(1).tolist() == [0, 1, 2]


# ---- references ----------------------------------------------------------------------------------------------------


def test_references_are_seen_once_whatever_the_batches_are(tiny_task):
    passes = tiny_task.model.passes = PassCounter(limit=4 * tiny_task.budget)
    task = fitted(Vital(), tiny_task)
    assert (passes.forward, passes.backward) == (16 + 8, 0)  # four each of four classes, and noise to weigh taps on
    whole = Vital().visualize(task)
    steps = (40 - 6) // 2
    assert (passes.forward, passes.backward) == (24 + 4 * steps, 4 * steps)
    passes.limit = None
    for first in (0, 3):  # an image depends on neither its batch nor its place in it
        batch = slice(first, first + 3)
        torch.testing.assert_close(Vital().visualize(part(task, batch)), whole[batch], atol=1e-5, rtol=1e-5)


def test_only_the_first_references_of_a_class_are_used(tiny_task):
    method = Vital(per_class=2)
    first = torch.cat([torch.arange(20)[tiny_task.reference_labels == k][:2] for k in range(4)])
    few = tiny_task.replace(references=tiny_task.references[first], reference_labels=tiny_task.reference_labels[first])
    one, other = fitted(method, tiny_task), fitted(Vital(), few)
    for tap in TAPS:
        torch.testing.assert_close(one.fitted.targets[tap], other.fitted.targets[tap])
    assert method.report(one)["references"] == {"0": 2, "1": 2, "2": 2, "3": 2}


def test_many_references_are_averaged_in_parts(tiny_classifier):
    references = torch.rand(45, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    task = task_for(tiny_classifier, references, torch.zeros(45, dtype=torch.int64), targets=[0])
    known = fitted(Vital(), task).fitted
    for tap, by_hand in reference_targets(tiny_classifier, references).items():
        torch.testing.assert_close(known.targets[tap][0], by_hand, atol=1e-6, rtol=1e-6)


def test_a_class_does_not_depend_on_the_others_of_its_cell(tiny_task):
    whole = fitted(Vital(), tiny_task).fitted
    alone = fitted(Vital(), part(tiny_task, slice(2, 3))).fitted
    torch.testing.assert_close(alone.weights[0], whole.weights[2])
    torch.testing.assert_close(alone.targets["block1"][0], whole.targets["block1"][2])


def test_constant_references_give_finite_pictures_and_broken_ones_diverge(tiny_task):
    black = tiny_task.replace(references=torch.zeros_like(tiny_task.references))
    assert Vital().visualize(fitted(Vital(), black)).isfinite().all()
    broken = tiny_task.replace(references=tiny_task.references * float("nan"))
    with pytest.raises(Diverged, match="4 of 4 images are not finite"):
        Vital().visualize(fitted(Vital(), broken))


# ---- taps and weights ----------------------------------------------------------------------------------------------


def small(name):
    made = networks.untrained(name, num_classes=10, image_shape=(3, 32, 32), mean=[0.5] * 3, std=[0.25] * 3, seed=0)
    return networks.wrap(made, name=name, num_classes=10, image_shape=(3, 32, 32))


def task_of_two(model):
    references = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return task_for(model, references, torch.arange(2), targets=range(2), budget=20)


@pytest.mark.parametrize(
    ("setting", "name", "taps"),
    [
        ("stages", "resnet20", ["stem", "layer1", "layer2", "layer3"]),
        ("all", "resnet20", ["stem", "layer1", "layer2", "layer3"]),
        ("ends", "resnet20", ["stem", "layer3"]),
        ("layer3 layer1", "resnet20", ["layer1", "layer3"]),
        ("stages", "cnn", ["block1", "block2", "block3"]),
        ("stages", "deit_pico", ["stem", "block2", "block3", "block5", "block6"]),
    ],
)
def test_taps_of_each_family(setting, name, taps):
    method = Vital(taps=setting)
    assert method.report(fitted(method, task_of_two(small(name))))["taps"] == taps


def test_of_maps_of_one_size_the_first_of_all_and_the_deepest_count():
    stack = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(5)])
    stack[3] = torch.nn.Conv2d(3, 3, 3, stride=2, padding=1)
    network = torch.nn.Sequential(stack, torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 10))
    model = Classifier(
        network,
        name="deep",
        image_shape=(3, 32, 32),
        num_classes=10,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        taps={f"c{place}": f"0.{place}" for place in range(5)},
    )
    assert Vital().report(fitted(Vital(), task_of_two(model)))["taps"] == ["c0", "c2", "c4"]


def test_class_tokens_are_sorted_with_the_patches_or_left_out():
    task = task_of_two(small("deit_pico"))
    sizes = [
        {tap: t.shape[2] for tap, t in fitted(Vital(prefix_tokens=p), task).fitted.targets.items()} for p in (1, 0)
    ]
    assert sizes[0] == {"stem": 64, "block2": 65, "block3": 65, "block5": 65, "block6": 65}
    assert set(sizes[1].values()) == {64}


def test_balanced_weights_make_all_taps_count_the_same_on_noise(digits_task):
    task = fitted(Vital(), digits_task)
    noise = digits_task.draws("balance", 8, 1, 8, 8)[0]
    for target in range(4):
        references = task.references[task.reference_labels == target]
        targets = reference_targets(task.model, references)
        losses = [
            sum(official_loss(task.model, inside, targets, {tap: 1.0}) for inside in noise).item() / 8 for tap in TAPS
        ]
        weights = [2 / loss / sum(1 / other for other in losses) for loss in losses]
        assert task.fitted.weights[target].tolist() == pytest.approx(weights, rel=1e-4)


def test_given_weights_cost_no_noise(tiny_task):
    for weights, row in (("equal", [1.0, 1.0]), ("1 0.25", [1.0, 0.25])):
        tiny_task.model.passes = PassCounter()
        known = fitted(Vital(weights=weights), tiny_task).fitted
        assert known.weights.tolist() == [row] * 4
        assert tiny_task.model.passes.total == 16


# ---- jitter --------------------------------------------------------------------------------------------------------


def pictures_shown(method, task, monkeypatch):
    """(steps, B, C, H, W) what the network sees while nothing is learned."""
    task, shown = fitted(method, task), []
    observe = Classifier.observe
    monkeypatch.setattr(
        Classifier, "observe", lambda model, images, taps: shown.append(images.detach()) or observe(model, images, taps)
    )
    method.visualize(task)
    return torch.stack(shown)


@pytest.mark.parametrize(("jitter", "reach"), [(30, 1), (56, 2), (0, 0)])
def test_each_image_is_shifted_by_its_own_in_each_step(tiny_task, monkeypatch, jitter, reach):
    task = tiny_task.replace(budget=206)
    shown = pictures_shown(Vital(jitter=jitter, step_size=0.0, clip=False), task, monkeypatch)
    starts = (task.noise() + 1) / 2
    ways = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
    taken = []
    for b, start in enumerate(starts):
        rolls = torch.stack([torch.roll(start, way, dims=(1, 2)) for way in ways])
        found = (shown[:, b, None] - rolls).flatten(2).abs().amax(2) < 1e-5  # (steps, ways)
        assert (found.sum(1) == 1).all()
        taken.append(found.int().argmax(1).tolist())
    assert all(set(one) == set(range(len(ways))) for one in taken), "no shift is left out in a hundred steps"
    assert reach == 0 or len({tuple(one) for one in taken}) == len(taken)


def test_half_of_the_pictures_are_mirrored_when_asked(tiny_task, monkeypatch):
    shown = pictures_shown(Vital(jitter=0, flip=True, step_size=0.0, clip=False), tiny_task, monkeypatch)
    starts = (tiny_task.noise() + 1) / 2
    mirrored = (shown - starts.flip(3)).flatten(2).abs().amax(2) < 1e-5  # (steps, B)
    straight = (shown - starts).flatten(2).abs().amax(2) < 1e-5
    assert (mirrored ^ straight).all()
    assert 0.25 < mirrored.float().mean() < 0.75


# ---- what cannot be done -------------------------------------------------------------------------------------------


def test_reasons_to_skip(tiny_task, linear_classifier):
    assert Vital().why_not(tiny_task) is None
    channels = tiny_task.replace(kind="channel", tap="block1")
    assert Vital().why_not(channels) == "shows classes only, inner neurons are not there yet"
    poor = tiny_task.replace(reference_labels=tiny_task.reference_labels + 2)
    assert Vital().why_not(poor) == "needs references of each class, there are none of class 0, 1"
    assert Vital().why_not(tiny_task.replace(budget=7)) == "needs 8 passes an image, the budget is 7"
    flat = task_for(linear_classifier(torch.ones(4, 3, 8, 8)), tiny_task.references, tiny_task.reference_labels)
    assert Vital().why_not(flat) == "needs taps with positions, all of tiny are flat"
    reason = Vital(weights="1 1 1 1 100").why_not(tiny_task)
    assert reason == "has 5 weights for the 2 taps block1, block2"
    assert tiny_task.model.passes.total == 0


def test_a_just_sufficient_budget_pays_one_step(tiny_task):
    passes = tiny_task.model.passes = PassCounter(limit=4 * 8)
    Vital().visualize(fitted(Vital(), tiny_task.replace(budget=8)))
    assert passes.backward == 4


def test_requests_that_cannot_be_meant_are_errors(tiny_task):
    with pytest.raises(SetupError, match="tap 'block3' of tiny does not exist\n  nearest: block2, block1"):
        Vital(taps="block3").why_not(tiny_task)
    with pytest.raises(SetupError, match="tap 'penultimate' of tiny is flat"):
        Vital(taps="block1 penultimate").why_not(tiny_task)
    with pytest.raises(SetupError, match="weights should be balanced, equal or a number for each tap, got 'even'"):
        Vital(weights="even").why_not(tiny_task)
    with pytest.raises(SetupError, match="tiny has no class 10\n  it has 0 to 9"):
        Vital().why_not(tiny_task.replace(targets=torch.tensor([0, 1, 2, 10])))
