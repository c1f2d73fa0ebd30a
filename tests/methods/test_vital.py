"""VITAL of classes: the official loss and loop by independent code, references, weights, budget, bad requests."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.contract import Diverged, PassCounter, SetupError, Unsupported, VisualizationTask
from bench.execute.tracks import has_leftovers
from bench.zoo import networks
from bench.zoo.classifier import Classifier
from methods.visualization.vital import Vital
from tests.methods.vital_tasks import Memory, fitted, part, steps_paid

TAPS = {"stem": 0, "s1": 2, "s2": 6}  # of the small networks of conftest.py: name → place in the stack


def vital(**settings):
    """With whatever references there are."""
    return Vital(**({"allow_fewer": True} | settings))


def task_for(model, references, labels, *, targets=range(4), budget=40, seed=0, **fields):
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
        **fields,
    )


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
    if smoothness:
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


def official_loop(
    model, inside, moves, targets, weights, *, reach, size, warmup, low, high, flip=False, betas=(0.5, 0.9), **penalties
):
    """Shift, mirror, gradient, Adam written out, warm-up, half a cosine, clip → picture, sum of gradient sizes."""
    first, second, slopes = (torch.zeros_like(inside) for _ in range(3))
    for step, (down, right, side) in enumerate(moves.tolist()):
        leaf = inside.clone().requires_grad_()
        way = [math.floor(number * (2 * reach + 1)) - reach for number in (down, right)]
        shown = torch.roll(leaf, way, dims=(1, 2))
        shown = shown[:, :, list(reversed(range(shown.shape[2])))] if flip and side < 0.5 else shown
        official_loss(model, shown, targets, weights, **penalties).backward()
        slopes += leaf.grad.abs()
        first, second = betas[0] * first + (1 - betas[0]) * leaf.grad, betas[1] * second + (1 - betas[1]) * leaf.grad**2
        unbiased = first / (1 - betas[0] ** (step + 1)), second / (1 - betas[1] ** (step + 1))
        if step < warmup:
            rate = (step + 1) / warmup
        else:
            rate = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (len(moves) - warmup)))
        inside = (inside - size * rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)).clamp(low, high)
    return inside, slopes


PENALTIES = {"smoothness": 0.003, "length": 0.002}


def test_loss_and_gradient_are_the_official_ones(digits_task):
    method, model = vital(weights="0.1 7 2", **PENALTIES), digits_task.model
    known = fitted(method, digits_task).fitted
    shown, place = digits_task.noise()[:1].requires_grad_(), torch.tensor([2])
    loss = method._loss(shown, known.eye((shown + 1) / 2, place), known, place)
    own = reference_targets(model, digits_task.references[digits_task.reference_labels == 2])
    inside = shown.detach()[0].clone().requires_grad_()
    scaled = {name: weight * 224 / 8 for name, weight in PENALTIES.items()}  # given for 224 pixels, shown on 8
    official = official_loss(model, inside, own, {"stem": 0.1, "s1": 7.0, "s2": 2.0}, **scaled)
    assert loss.item() == pytest.approx(official.item(), rel=1e-5)
    slope = torch.autograd.grad(loss.sum(), shown)[0][0]
    gradient = torch.autograd.grad(official, inside)[0]
    assert (slope - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize(
    "settings",
    [{}, PENALTIES, {"flip": True}, {"momentum": 0.9, "second_momentum": 0.999, "clip": False}],
    ids=["bare", "penalised", "mirrored", "setting 2"],
)
@pytest.mark.parametrize(("steps", "size"), [(1, 1.0), (10, 0.1)])
def test_the_first_steps_and_their_slopes_are_those_of_the_official_loop(digits_task, settings, steps, size):
    """Smaller ones where there are ten: with full ones rounding grows fivefold in each."""
    method, place = vital(weights="1 2 3", warmup=0.3, step_size=size, **settings), 3
    task = fitted(method, digits_task.replace(budget=7 + 2 * steps))  # 26 references are shared by four images
    targets = reference_targets(task.model, task.references[task.reference_labels == place])
    clip = settings.get("clip", True)
    inside, slopes = official_loop(
        task.model,
        task.noise()[place],
        task.draws("moves", steps, 3, law="uniform")[place],
        targets,
        {"stem": 1.0, "s1": 2.0, "s2": 3.0},
        reach=1,  # ⌊30 · 8 / 224⌋
        size=size,
        warmup=round(0.3 * steps),
        low=-1.0 if clip else -math.inf,  # black and white, with mean and deviation 0.5
        high=1.0 if clip else math.inf,
        flip=settings.get("flip", False),
        betas=(settings.get("momentum", 0.5), settings.get("second_momentum", 0.9)),
        **{name: settings[name] * 28 for name in PENALTIES if name in settings},
    )
    picture = method.visualize(task)[place]
    torch.testing.assert_close(picture, ((inside + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)
    by_channel = slopes.mean(0).numpy()
    cut = np.quantile(by_channel, 0.98)
    alpha = method.describe(task)["transparency"]
    np.testing.assert_allclose(alpha[place].numpy(), np.minimum(by_channel, cut) / cut, atol=1e-3)


def test_transparency_is_a_share_for_each_pixel_of_the_images_asked_for(tiny_task):
    task = fitted(vital(), tiny_task)
    vital().visualize(task)
    alpha = vital().describe(task)["transparency"]
    assert alpha.shape == (4, 8, 8)
    assert alpha.min() >= 0
    torch.testing.assert_close(alpha.amax((1, 2)), torch.ones(4))
    torch.testing.assert_close(vital().describe(part(task, slice(1, 3)))["transparency"], alpha[1:3])
    whole = alpha.clone()
    vital().visualize(part(task, slice(2, 4)))  # the other half of a cell in two batches is left as it was
    torch.testing.assert_close(vital().describe(task)["transparency"], whole, atol=1e-3, rtol=1e-3)


def test_distributions_come_closer_than_those_of_real_images(digits, digits_task):
    task = fitted(vital(), digits_task.replace(budget=120))
    images, labels = digits
    held_out = torch.stack([images[600:][labels[600:] == target][0] for target in task.targets.tolist()])

    def distance(shown):
        losses = []
        for target, image in zip(task.targets.tolist(), shown, strict=True):
            targets = {tap: task.fitted.targets[tap][target] for tap in TAPS}
            inside = task.model.normalise(image[None])[0]
            losses.append(official_loss(task.model, inside, targets, dict.fromkeys(TAPS, 1.0)))
        return torch.stack(losses)

    reached = distance(vital().visualize(task))
    assert (reached < distance(held_out)).all()


# ---- colours of a trained network's classes ------------------------------------------------------------------------

COLOURS = torch.tensor([[0.85, 0.25, 0.15], [0.15, 0.35, 0.85]])
SHAPES = torch.zeros(2, 12, 12)
SHAPES[0, 2:10, 2:10] = 1.0  # a square
SHAPES[1] = (torch.cartesian_prod(torch.arange(12), torch.arange(12)) - 5.5).norm(dim=1).view(12, 12) < 5  # a disc


def coloured_shapes(count, seed):
    """Red squares and blue discs, here and there, on noise."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(count) % 2
    images = 0.3 + 0.3 * torch.rand(count, 3, 16, 16, generator=generator)
    for image, label, (down, right) in zip(
        images, labels, torch.randint(5, (count, 2), generator=generator), strict=True
    ):
        window = image[:, down : down + 12, right : right + 12]
        window.copy_(torch.where(SHAPES[label] > 0, COLOURS[label][:, None, None], window))
    return images, labels


@pytest.fixture
def shapes_classifier():
    images, labels = coloured_shapes(256, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(16 * 16, 2),
        )  # fmt: skip
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for chosen in torch.arange(256).split(32):
            loss = F.cross_entropy(network(4 * images[chosen] - 2), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Classifier(
        network, name="shapes", image_shape=(3, 16, 16), num_classes=2, mean=[0.5] * 3, std=[0.25] * 3, taps={}
    )


def test_pictures_have_the_mean_colour_of_their_class(shapes_classifier):
    references, labels = coloured_shapes(40, seed=1)
    assert (shapes_classifier(references).argmax(1) == labels).float().mean() > 0.95, "the network knows its classes"
    task = task_for(shapes_classifier, references, labels, targets=[0, 1, 0, 1], budget=180)
    shown = vital().visualize(fitted(vital(), task)).mean((2, 3))
    colours = torch.stack([references[labels == kind].mean((0, 2, 3)) for kind in (0, 1)])
    apart = torch.cdist(shown, colours)
    assert apart.argmin(1).tolist() == [0, 1, 0, 1]
    assert apart.amin(1).max() < 0.35 * (colours[0] - colours[1]).norm()
    start = (task.noise() * 0.25 + 0.5).clamp(0, 1).mean((2, 3))
    assert (apart.amin(1) < 0.6 * torch.cdist(start, colours).amin(1)).all()


# ---- references ----------------------------------------------------------------------------------------------------


def test_an_image_depends_on_neither_its_batch_nor_its_place_in_it(tiny_task):
    task = fitted(vital(), tiny_task)
    whole = vital().visualize(task)
    for first in (0, 3):
        batch = slice(first, first + 3)
        torch.testing.assert_close(vital().visualize(part(task, batch)), whole[batch], atol=1e-5, rtol=1e-5)


def test_sixteen_images_at_once_go_the_ways_of_each_alone(digits, digits_classifier):
    images, labels = digits
    task = task_for(digits_classifier, images[:60], labels[:60], targets=[n % 10 for n in range(16)])
    task = fitted(vital(), steps_paid(vital(), task, 10))
    together = vital().visualize(task)
    clear = vital().describe(task)["transparency"].clone()
    for n in range(16):
        alone = part(task, slice(n, n + 1))
        assert torch.equal(alone.noise()[0], task.noise()[n])
        assert torch.equal(*(one.draws("moves", 10, 3, law="uniform")[at] for one, at in ((alone, 0), (task, n))))
        torch.testing.assert_close(vital().visualize(alone)[0], together[n], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vital().describe(alone)["transparency"][0], clear[n], atol=1e-5, rtol=1e-5)
    assert len({tuple(picture.flatten().tolist()) for picture in together}) == 16


def test_only_the_first_references_of_a_class_are_used(tiny_task):
    method = Vital(references=2)
    first = torch.cat([torch.arange(20)[tiny_task.reference_labels == k][:2] for k in range(4)])
    few = tiny_task.replace(references=tiny_task.references[first], reference_labels=tiny_task.reference_labels[first])
    one, other = fitted(method, tiny_task), fitted(vital(), few)
    for tap in TAPS:
        torch.testing.assert_close(one.fitted.targets[tap], other.fitted.targets[tap])
    assert method.report(one)["references"] == {"0": 2, "1": 2, "2": 2, "3": 2}


@pytest.mark.parametrize("count", [1, 45])
def test_references_are_averaged_in_parts(tiny_classifier, count):
    references = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    task = task_for(tiny_classifier, references, torch.zeros(count, dtype=torch.int64), targets=[0])
    known = fitted(vital(), task).fitted
    for tap, by_hand in reference_targets(tiny_classifier, references).items():
        torch.testing.assert_close(known.targets[tap][0], by_hand, atol=1e-6, rtol=1e-6)


def test_a_class_does_not_depend_on_the_others_of_its_cell(tiny_task):
    whole = fitted(vital(), tiny_task).fitted
    alone = fitted(vital(), part(tiny_task, slice(2, 3))).fitted
    torch.testing.assert_close(alone.weights[0], whole.weights[2])
    torch.testing.assert_close(alone.targets["s1"][0], whole.targets["s1"][2])


# ---- what is remembered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"weights": "equal"},
        {"weights": "natural"},
        {"smoothness": 0.1, "length": 0.1},
        {"jitter": 0, "flip": True, "step_size": 0.1},
        {"momentum": 0.9, "second_momentum": 0.99, "warmup": 0.2, "clip": False},
        {"channels_last": True, "autocast": True},
        {"references": 30},  # no more than the four that there are of each class
    ],
    ids=str,
)
def test_seeds_and_settings_of_the_loop_share_what_is_learned(tiny_task, other):
    memory = Memory()
    one, asked, learned = memory.asked_by(vital(), tiny_task)
    assert asked == learned and len(asked) == 4
    two, again, relearned = memory.asked_by(vital(**other), tiny_task.replace(seed=5, budget=99))
    assert again == asked and not relearned
    assert all(torch.equal(one.targets[tap], two.targets[tap]) for tap in TAPS)
    assert two.counts == [4] * 4


def test_recalled_or_learned_the_pictures_are_the_same(tiny_task):
    memory, passes = Memory(), tiny_task.model.passes
    method, task = vital(weights="natural"), steps_paid(vital(weights="natural"), tiny_task, 3)
    first = method.visualize(fitted(method, task.replace(remember=memory)))
    spent = passes.forward
    recalled = fitted(method, task.replace(remember=memory))
    assert passes.forward == spent, "references are not looked at again"
    assert torch.equal(method.visualize(recalled), first)


@pytest.mark.parametrize("other", [{"taps": "stem s2"}, {"references": 2}, {"prefix_tokens": False}], ids=str)
def test_what_decides_over_targets_is_not_shared(tiny_task, other):
    memory = Memory()
    _, asked, _ = memory.asked_by(vital(), tiny_task)
    _, others, learned = memory.asked_by(vital(**other), tiny_task)
    assert not asked & others and learned == others


def test_classes_are_remembered_one_by_one(tiny_task):
    memory = Memory()
    memory.asked_by(vital(), part(tiny_task, slice(0, 2)))
    _, asked, learned = memory.asked_by(vital(), part(tiny_task, slice(1, 4)))
    assert len(asked) == 3 and len(learned) == 2


# ---- passes --------------------------------------------------------------------------------------------------------

LEARNING = [  # settings, forward passes beside those of references
    ({"weights": "equal"}, 0),
    ({"weights": "1 2 3"}, 0),
    ({"weights": "natural"}, 0),
    ({"weights": "balanced"}, 8),
    ({"weights": "equal", "channels_last": True}, 16),  # noise by both ways, to say how far they are apart
    ({"weights": "balanced", "autocast": True}, 24),
]


@pytest.mark.parametrize(("settings", "noise"), LEARNING, ids=str)
@pytest.mark.parametrize(("budget", "asked"), [(40, 4), (41, 4), (40, 3)])
def test_passes_are_what_is_said_and_never_above_the_budget(tiny_task, settings, noise, budget, asked):
    method, task = vital(**settings), part(tiny_task.replace(budget=budget), slice(0, asked))
    passes = task.model.passes = PassCounter(limit=asked * budget)
    task = fitted(method, task)
    learned = 4 * asked + noise  # four references of each class
    assert (passes.forward, passes.backward) == (learned, 0)
    assert method._share_of_learning(task) == math.ceil(learned / asked)
    assert method._passes_of_a_step(task) == 2
    method.visualize(task)
    steps = (budget - math.ceil(learned / asked)) // 2
    assert method.report(task)["steps"] == steps
    assert (passes.forward, passes.backward) == (learned + asked * steps, asked * steps)
    assert asked * (budget - 2) <= passes.total + 2 * asked, "what is not spent would not pay another step"


def test_a_just_sufficient_budget_pays_one_step(tiny_task):
    method, task = vital(), tiny_task.replace(budget=8)
    assert method.why_not(task) is None
    passes = task.model.passes = PassCounter(limit=4 * 8)
    method.visualize(fitted(method, task))
    assert passes.backward == 4
    assert method.why_not(task.replace(budget=7)) == "needs 8 passes an image, the budget is 7"


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
        ("all", "resnet20", {"stem": "conv1", "s1": "layer1", "s2": "layer2", "s3": "layer3"}),
        ("ends", "resnet20", {"s1": "layer1", "s3": "layer3"}),
        ("s3 stem", "resnet20", {"stem": "conv1", "s3": "layer3"}),
        ("layer3 s1", "resnet20", {"s1": "layer1", "layer3": "layer3"}),
        ("block2 block1", "cnn", {"block1": "block1", "block2": "block2"}),
        ("ends", "deit_pico", {"s1": "blocks.1", "s4": "blocks.5"}),
    ],
)
def test_taps_are_by_rule_or_by_name_from_shallow_to_deep(setting, name, taps):
    assert list(vital(taps=setting)._taps(task_of_two(small(name))).items()) == list(taps.items())


def test_class_tokens_are_sorted_with_the_patches_or_left_out():
    task = task_of_two(small("deit_pico"))
    sizes = [
        {tap: t.shape[2] for tap, t in fitted(vital(prefix_tokens=p), task).fitted.targets.items()} for p in (1, 0)
    ]
    assert sizes[0] == {"stem": 64, "s1": 65, "s2": 65, "s3": 65, "s4": 65}
    assert set(sizes[1].values()) == {64}


def shares(losses):
    """Weights by which all count the same, of the sum of their number."""
    return [len(losses) / loss / sum(1 / other for other in losses) for loss in losses]


def test_balanced_weights_make_all_taps_count_the_same_on_noise(digits_task):
    task = fitted(vital(), digits_task)
    noise = digits_task.draws("balance", 8, 1, 8, 8)[0]
    for target in range(4):
        targets = reference_targets(task.model, task.references[task.reference_labels == target])
        losses = [
            sum(official_loss(task.model, inside, targets, {tap: 1.0}) for inside in noise).item() / 8 for tap in TAPS
        ]
        assert task.fitted.weights[target].tolist() == pytest.approx(shares(losses), rel=1e-4)


def test_natural_weights_make_the_references_lose_one_the_same_at_each_tap(digits_task):
    task = fitted(vital(weights="natural"), digits_task)
    for target in range(4):
        references = task.references[task.reference_labels == target]
        targets = reference_targets(task.model, references)
        for tap, weight in zip(TAPS, task.fitted.weights[target].tolist(), strict=True):
            losses = [official_loss(task.model, 2 * image - 1, targets, {tap: weight}).item() for image in references]
            assert sum(losses) / len(losses) == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.parametrize(("weights", "row"), [("equal", [1.0, 1.0, 1.0]), ("1 0.25 3", [1.0, 0.25, 3.0])])
def test_given_weights_are_taken_as_they_are(tiny_task, weights, row):
    assert fitted(vital(weights=weights), tiny_task).fitted.weights.tolist() == [row] * 4


# ---- units ---------------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        return images * self.factor


def test_networks_that_take_bytes_get_the_same_pictures_as_those_that_take_deviations(digits_classifier, digits):
    """Caffe's GoogLeNet takes 255 x less a mean; the same network behind a scale takes deviations of 1 / 4.4."""
    images, labels = digits
    trained, shown, moved = digits_classifier.network, [], []
    for std, factor in ((1 / 255, 2 / 255), (1 / 4.4, 2 / 4.4)):
        model = Classifier(
            nn.Sequential(Scale(factor), *trained),
            name="scaled",
            image_shape=(1, 8, 8),
            num_classes=10,
            mean=[0.5],
            std=[std],
            taps={},
        )
        method = vital(weights="equal", **PENALTIES)
        task = steps_paid(method, task_for(model, images[:60], labels[:60]), 10)
        shown.append(method.visualize(fitted(method, task)))
        moved.append((shown[-1] - (task.noise() / 4.4 + 0.5).clamp(0, 1)).abs().mean().item())
    torch.testing.assert_close(*shown, atol=1e-3, rtol=0)
    assert min(moved) > 0.1


# ---- jitter --------------------------------------------------------------------------------------------------------


def pictures_shown(method, task, monkeypatch):
    """(steps, B, C, H, W) what the network sees while nothing is learned."""
    task, shown = fitted(method, task), []
    features = Classifier.features
    monkeypatch.setattr(
        Classifier, "features", lambda model, images, tap: shown.append(images.detach()) or features(model, images, tap)
    )
    method.visualize(task)
    return torch.stack(shown)


@pytest.mark.parametrize(("jitter", "reach"), [(30, 1), (56, 2), (0, 0)])
def test_each_image_is_shifted_by_its_own_in_each_step(tiny_task, monkeypatch, jitter, reach):
    task = tiny_task.replace(budget=206)
    shown = pictures_shown(vital(jitter=jitter, step_size=0.0, clip=False), task, monkeypatch)
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
    shown = pictures_shown(vital(jitter=0, flip=True, step_size=0.0, clip=False), tiny_task, monkeypatch)
    starts = (tiny_task.noise() + 1) / 2
    mirrored = (shown - starts.flip(3)).flatten(2).abs().amax(2) < 1e-5  # (steps, B)
    straight = (shown - starts).flatten(2).abs().amax(2) < 1e-5
    assert (mirrored ^ straight).all()
    assert 0.25 < mirrored.float().mean() < 0.75


# ---- what makes it faster on a GPU ---------------------------------------------------------------------------------


def five_steps(method, task):
    task = fitted(method, steps_paid(method, task, 5))
    return method.visualize(task), method.report(task)


def test_channels_last_and_compiled_show_the_same_and_say_how_far_they_are_apart(digits_task, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)  # no compiler needed
    plain, said = five_steps(vital(), digits_task)
    assert "relative_difference_of_the_loss" not in said
    for options in ({"channels_last": True}, {"compiled": True}, {"channels_last": True, "compiled": True}):
        shown, said = five_steps(vital(**options), digits_task)
        torch.testing.assert_close(shown, plain, atol=1e-3, rtol=0)
        assert 0 <= said["relative_difference_of_the_loss"] < 1e-5


def test_half_precision_says_what_difference_it_makes(digits_task):
    method, model = vital(autocast=True, weights="1 2 3"), digits_task.model
    task = fitted(method, digits_task)
    said = method.report(task)["relative_difference_of_the_loss"]
    references = task.references[task.reference_labels == 0]
    targets, noise = reference_targets(model, references), digits_task.draws("balance", 8, 1, 8, 8)[0]
    apart = []
    for inside in noise:
        with torch.no_grad():
            plain = official_loss(model, inside, targets, {"stem": 1.0, "s1": 2.0, "s2": 3.0})
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            low = {tap: features.float() for tap, features in features_of(model, inside).items()}
        half = sum(
            weight * ((low[tap].sort(dim=1)[0] - targets[tap]) ** 2).mean()
            for tap, weight in (("stem", 1.0), ("s1", 2.0), ("s2", 3.0))
        )
        apart.append(abs(half - plain).item() / plain.item())
    assert said == pytest.approx(max(apart), rel=0.3)  # kernels round differently for eight images and for one
    assert 0 < said < 0.05


@pytest.mark.parametrize(
    "options", [{}, {"channels_last": True, "autocast": True}, {"prefix_tokens": False}, {"compiled": True}], ids=str
)
def test_the_subject_stays_as_it_was(tiny_task, options, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)
    model = tiny_task.model
    before, modules = model.checksum(), [id(module) for module in model.modules()]
    five_steps(vital(**options), tiny_task)
    assert model.checksum() == before
    assert [id(module) for module in model.modules()] == modules
    assert not has_leftovers(model)
    assert model.network[0].weight.is_contiguous()


# ---- what cannot be done -------------------------------------------------------------------------------------------


def test_too_few_references_are_a_reason(tiny_task):
    assert Vital(references=4).why_not(tiny_task) is None
    asks = "show it more, lower references, or allow_fewer"
    reason = Vital(references=5).why_not(tiny_task)
    assert reason == f"needs 5 references of each class, there are 4 of class 0: {asks}"
    absent = tiny_task.replace(targets=torch.tensor([0, 1, 2, 7]))
    assert vital().why_not(absent) == f"needs a reference of each class, there are 0 of class 7: {asks}"
    with pytest.raises(SetupError, match="references should be 1 or more, got 0"):
        Vital(references=0).why_not(tiny_task)
    assert tiny_task.model.passes.total == 0


def test_natural_weights_need_two_references(tiny_task):
    one = tiny_task.replace(references=tiny_task.references[:5], reference_labels=torch.arange(5))
    assert vital(weights="balanced").why_not(one) is None
    assert vital(weights="natural").why_not(one) == (
        "needs 2 references of each class, there are 1 of class 0: show it more, lower references, or allow_fewer"
    )
    with pytest.raises(SetupError, match="natural weights need 2 references or more"):
        vital(weights="natural", references=1).why_not(tiny_task)


def test_an_architecture_without_a_rule_says_which_taps_it_has(linear_classifier, tiny_task):
    assert vital().why_not(task_of_two(small("mlp"))) == (
        "has no tap rule for mlp; name some of its own taps: hidden1, hidden2"
    )
    flat = task_for(linear_classifier(torch.ones(4, 3, 8, 8)), tiny_task.references, tiny_task.reference_labels % 4)
    assert vital().why_not(flat) == "has no tap rule for tiny; name some of its own taps: none"


@pytest.mark.parametrize("name", ["s7", "block3", "layer4"])
def test_an_unknown_tap_is_answered_with_the_three_nearest(tiny_task, name):
    with pytest.raises(SetupError, match=f"tap '{name}' of tiny does not exist") as raised:
        vital(taps=f"s1 {name}").why_not(tiny_task)
    nearest = str(raised.value).partition("nearest: ")[2].split(", ")
    assert len(nearest) == 3 and set(nearest) < {*TAPS, "block1", "block2", "penultimate"}
    assert name != "block3" or set(nearest[:2]) == {"block1", "block2"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"taps": "block1 penultimate"},
            "tap 'penultimate' of tiny is flat: it has no distribution\n  there are: stem",
        ),
        ({"weights": "even"}, "weights should be natural, balanced, equal or a number for each tap, got 'even'"),
        ({"weights": ""}, "weights"),
    ],
)
def test_settings_that_cannot_be_meant_are_errors_or_reasons(tiny_task, settings, message):
    if settings == {"weights": ""}:
        assert vital(**settings).why_not(tiny_task) == "has 0 weights for the 3 taps stem, s1, s2"
        return
    with pytest.raises(SetupError, match=message):
        vital(**settings).why_not(tiny_task)


def test_as_many_weights_as_taps_are_needed(tiny_task):
    assert vital(weights="1 1 1 1 100").why_not(tiny_task) == "has 5 weights for the 3 taps stem, s1, s2"
    assert vital(weights="1 5", taps="s2 stem").why_not(tiny_task) is None


@pytest.mark.parametrize("wrong", [10, -1, 500])
def test_targets_and_labels_must_be_classes(tiny_task, wrong):
    with pytest.raises(SetupError, match=f"^tiny has no class {wrong}\n  it has 0 to 9$"):
        vital().why_not(tiny_task.replace(targets=torch.tensor([0, 1, 2, wrong])))
    labels = tiny_task.reference_labels.clone()
    labels[7] = wrong
    with pytest.raises(SetupError, match=f"^references are labelled, and tiny has no class {wrong}\n  it has 0 to 9$"):
        vital().why_not(tiny_task.replace(reference_labels=labels))


def test_references_of_one_colour_are_an_error(tiny_task):
    for colours in (torch.zeros(20, 3, 1, 1), torch.rand(20, 3, 1, 1)):
        constant = tiny_task.replace(references=colours.expand(20, 3, 8, 8).clone())
        with pytest.raises(SetupError, match="all 4 references of class 0 are of one colour\n  give real pictures"):
            vital().fit(constant)
    constant.references[0] = tiny_task.references[0]  # one picture among them will do
    assert vital().visualize(fitted(vital(), part(constant, slice(0, 1)))).isfinite().all()


def test_references_that_are_no_numbers_diverge_in_the_first_step(tiny_task):
    broken = tiny_task.replace(references=tiny_task.references * float("nan"))
    with pytest.raises(Diverged, match="the loss of 4 of 4 images is not finite, first in step 0"):
        vital().visualize(fitted(vital(), broken))
    one = tiny_task.replace(references=tiny_task.references.clone())
    one.references[2] = float("inf")  # of class 2
    with pytest.raises(Diverged, match="the loss of 1 of 4 images is not finite, first in step 0"):
        vital().visualize(fitted(vital(), one))


def test_divergence_names_the_first_step_without_a_finite_loss(digits_task):
    method = vital(weights="equal", step_size=1e30, clip=False, warmup=0.0)
    with pytest.raises(Diverged, match="the loss of 4 of 4 images is not finite, first in step 1"):
        method.visualize(fitted(method, digits_task))


def test_references_that_are_all_the_same_are_unsupported_under_natural_weights(tiny_task):
    same = tiny_task.replace(references=tiny_task.references[:1].expand(20, -1, -1, -1))
    with pytest.raises(Unsupported, match="the references of class 0 ask for nothing at any tap"):
        vital(weights="natural").fit(same)
    assert vital(weights="equal").visualize(fitted(vital(weights="equal"), same)).isfinite().all()


@pytest.mark.parametrize(
    ("setting", "found", "meant"),
    [
        ("step_size", -1.0, "0 or more"),
        ("smoothness", -0.1, "0 or more"),
        ("jitter", -3, "0 or more"),
        ("momentum", 2.0, "0 to 1"),
        ("warmup", math.nan, "0 to 1"),
    ],
)
def test_numbers_that_cannot_be_meant_are_errors(tiny_task, setting, found, meant):
    with pytest.raises(SetupError, match=f"{setting} should be {meant}, got {found}"):
        vital(**{setting: found}).why_not(tiny_task)
