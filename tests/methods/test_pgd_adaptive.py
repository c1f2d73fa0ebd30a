"""The attack that knows the detector, on networks whose gates are planted: what it must find can be said beforehand."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.contract import AdversarialTask, Bound
from bench.gating import ControllingModule, FixedGate, Gate, attach, gated_layers, paths_of, watched
from bench.ops import wrong_class_margin
from bench.zoo.classifier import Classifier
from methods.adversarial import pgd_adaptive
from methods.adversarial.pgd import PGD
from methods.adversarial.pgd_adaptive import PGDAdaptive

WIDE = Bound("linf", 0.1)
BOUNDS = [Bound.parse("linf_8_255"), Bound.parse("l2_1_2")]
VARIANTS = [PGDAdaptive(), PGDAdaptive(match="features"), PGDAdaptive(weight=0.0), PGDAdaptive(strongest=True)]


class LinearGate(Gate):
    """Scores are linear in the means of the input channels."""

    def __init__(self, slope, offset):
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope))  # (C_out, C_in)
        self.register_buffer("offset", torch.tensor(offset))  # (C_out,)

    def scores(self, squeezed):
        return squeezed @ self.slope.T + self.offset


def planted(slope, offset, filters, biases, head):
    """Two channels pass the stem and a gated 1×1 convolution with the given numbers; logits are (0, head · means)."""
    network = nn.Sequential(
        nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False)
    )
    with torch.no_grad():
        for conv, weights, bias in ((network[0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), (network[1], filters, biases)):
            conv.weight.copy_(torch.tensor(weights)[:, :, None, None])
            conv.bias.copy_(torch.tensor(bias))
        network[4].weight.copy_(torch.tensor([[0.0, 0.0], head]))
    attach(network, lambda name, conv: LinearGate(slope, offset))
    return Classifier(
        network, name="planted", image_shape=(2, 4, 4), num_classes=2, mean=[0.5] * 2, std=[0.5] * 2, taps={}
    )


def path_beside_the_class():
    """The class is that of channel 0, the second bit that of channel 1, which no logit reads: bright or dark."""
    return planted([[0.0, 0.0], [0.0, 5.0]], [1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [20.0, 0.0])


def class_by_a_bit():
    """Both filters are constant: the answer is the bit of filter 0, on where channel 1 is bright."""
    return planted([[0.0, 5.0], [0.0, 0.0]], [0.0, 1.0], [[0.0, 0.0], [0.0, 0.0]], [2.0, 1.0], [1.0, -1.0])


def bit_that_misleads():
    """Brighter channel 0 gives class 1; a bit that is never on says, to straight-through gradients, the contrary."""
    return planted([[0.0, 0.0], [1.0, 0.0]], [1.0, -5.0], [[1.0, 0.0], [0.0, 0.0]], [0.0, 1.0], [1.0, -1e4])


def flat_images(*levels):
    """One (2, 4, 4) image for each pair of levels of its channels."""
    return torch.tensor(levels)[:, :, None, None].expand(-1, -1, 4, 4).contiguous()


def task_for(model, images, labels, *, bound=WIDE, budget=60, seed=0, references=None, reference_labels=None):
    return AdversarialTask(
        model=model,
        places=torch.arange(len(images)),
        seed=seed,
        budget=budget,
        images=images,
        labels=labels,
        bound=bound,
        references=images if references is None else references,
        reference_labels=labels if reference_labels is None else reference_labels,
    )


def attacked(attack, task):
    return attack.attack(task.replace(fitted=attack.fit(task)))


def fooled(task, images):
    with torch.no_grad():
        return task.model(images).argmax(1) != task.labels


@pytest.fixture(scope="module")
def gated_network(digits):
    """Trained on the first 1200 digits with bits that tell classes apart; about 90 % right on the others."""
    images, labels = (whole[:1200] for whole in digits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)),
        )
        layers = attach(network, lambda name, conv: ControllingModule(conv.in_channels, conv.out_channels))
        for layer in layers.values():
            nn.init.normal_(layer.gate.reduce.weight, std=3.0)  # more bits that differ than from the usual start
            nn.init.zeros_(layer.gate.expand.bias)
        heads = nn.ModuleList(nn.Linear(layer.conv.out_channels, 10, bias=False) for layer in layers.values())
        optimiser = torch.optim.Adam([*network.parameters(), *heads.parameters()], lr=8e-3)
        for _ in range(6):
            for chosen in torch.randperm(1200).split(100):
                with watched(network) as seen:
                    loss = F.cross_entropy(network(2 * images[chosen] - 1), labels[chosen])
                for head, shown in zip(heads, seen.values(), strict=True):
                    loss = loss + F.cross_entropy(head(shown.gates), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return network


@pytest.fixture
def gated_digits(gated_network, digits):
    """A task of 12 held-out digits, 48 further ones as references; labels are what the network says."""
    shape = {"image_shape": (1, 8, 8), "num_classes": 10, "mean": [0.5], "std": [0.5]}
    model = Classifier(gated_network, name="gated", taps={}, **shape)
    images = digits[0][1200:1260]
    with torch.no_grad():
        labels = model(images).argmax(1)
    model.passes.forward = 0
    return task_for(model, images[:12], labels[:12], references=images[12:], reference_labels=labels[12:])


# ---- what it finds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [WIDE, Bound("l2", 0.5)], ids=["linf", "l2"])
def test_images_take_the_path_of_the_class_that_they_are_taken_for(bound):
    images, labels = flat_images([0.47, 0.47], [0.53, 0.53], [0.46, 0.46], [0.54, 0.54]), torch.tensor([0, 1, 0, 1])
    task = task_for(path_beside_the_class(), images, labels, bound=bound)
    bits = {}
    for weight in (0.0, 100.0):
        found = attacked(PGDAdaptive(weight=weight), task)
        assert fooled(task, found).all()
        bits[weight] = paths_of(task.model, found).bits["1"]
    assert bits[100.0].tolist() == [[True, True], [True, False]] * 2
    assert bits[0.0].tolist() == [[True, False], [True, True]] * 2  # nothing but the penalty looks at channel 1


def test_success_comes_before_the_path():
    """Class 1 is bright in channel 0, but its bit, out of reach there, asks for dark: the penalty alone would fail."""
    model = planted([[0.0, 0.0], [-20.0, 40.0]], [1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [20.0, 0.0])
    images, labels = flat_images([0.45, 0.35], [0.47, 0.35]), torch.tensor([0, 0])
    task = task_for(model, images, labels, references=flat_images([0.7, 0.9]), reference_labels=torch.tensor([1]))
    found = attacked(PGDAdaptive(weight=1e4), task)
    assert fooled(task, found).all()
    assert not paths_of(model, found).bits["1"][:, 1].any()


def test_straight_through_gates_turn_bits_that_a_plain_attack_cannot_see():
    task = task_for(class_by_a_bit(), flat_images([0.5, 0.45], [0.5, 0.55]), torch.tensor([0, 1]))
    assert not fooled(task, task.images).any()
    assert not fooled(task, PGD().attack(task)).any()
    assert fooled(task, attacked(PGDAdaptive(weight=0.0), task)).all()
    assert fooled(task, attacked(PGDAdaptive(weight=0.0, strongest=True), task)).all()


def test_the_strongest_of_both_also_fools_where_straight_through_gradients_mislead():
    task = task_for(bit_that_misleads(), flat_images([0.45, 0.5]), torch.tensor([0]))
    assert not fooled(task, attacked(PGDAdaptive(weight=0.0), task)).any()
    assert fooled(task, attacked(PGDAdaptive(weight=0.0, strongest=True), task)).all()


def test_the_strongest_of_both_is_no_weaker_than_straight_through_gates_with_half_of_the_budget(gated_digits):
    half = attacked(PGDAdaptive(weight=0.0), gated_digits.replace(budget=21))
    both = attacked(PGDAdaptive(weight=0.0, strongest=True), gated_digits.replace(budget=42))
    with torch.no_grad():
        margins = [wrong_class_margin(gated_digits.model(images), gated_digits.labels) for images in (half, both)]
    wins = fooled(gated_digits, half)
    assert wins.any()
    assert (margins[1] >= margins[0])[wins].all()
    assert fooled(gated_digits, both)[wins].all()


def test_without_gates_features_go_to_those_of_a_clean_image_of_the_other_class():
    """Feature 1 is channel 1, which decides nothing."""
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[0.0, 0.0], [20.0, 0.0]]))
    shape = {"image_shape": (2, 4, 4), "num_classes": 2, "mean": [0.5] * 2, "std": [0.5] * 2}
    model = Classifier(network, name="plain", taps={}, **shape)
    images, labels = flat_images([0.45, 0.45], [0.55, 0.55]), torch.tensor([0, 1])
    task = task_for(model, images, labels, budget=200)
    found = attacked(PGDAdaptive(), task)
    assert fooled(task, found).all()
    assert (found - images.flip(0)).mean((2, 3)).abs().max() < 0.01


def test_more_weight_brings_paths_closer_on_a_trained_network(gated_digits):
    task = gated_digits.replace(bound=Bound("linf", 0.3), budget=100)
    apart = {}
    for weight in (1e-6, 100.0):
        attack = PGDAdaptive(weight=weight)
        known = attack.fit(task)
        aim = attack._aim(task, known)
        images = attack.attack(task.replace(fitted=known))
        bits = paths_of(task.model, images).joined()
        wanted = torch.cat([scores > 0 for scores in aim.code.values()], 1)
        apart[weight] = (bits != wanted).double().mean(1), fooled(task, images)
    both = apart[1e-6][1] & apart[100.0][1]
    assert both.sum() >= 6
    assert apart[100.0][0][both].mean() < 0.3 * apart[1e-6][0][both].mean()


def test_the_aim_is_a_right_reference_of_the_runner_up_drawn_for_the_image(gated_digits):
    task, attack = gated_digits, PGDAdaptive()
    wrong = task.reference_labels.clone()
    wrong[::3] = (wrong[::3] + 1) % 10  # labels that the subject does not give
    task = task.replace(reference_labels=wrong)
    known = attack.fit(task)
    aim = attack._aim(task, known)
    logits, codes = task.model(task.images), paths_of(task.model, task.references).scores
    said = task.model(task.references).argmax(1)
    for row, label in enumerate(task.labels.tolist()):
        ranked = sorted(range(10), key=lambda k, row=row: -logits[row, k].item())
        usable = [k for k in ranked if k != label and ((said == k) & (wrong == k)).any()]
        assert aim.classes[row] == usable[0]
        choice = [r for r in range(len(wrong)) if said[r] == wrong[r] == usable[0]]
        assert any(all(torch.equal(aim.code[k][row], codes[k][r]) for k in codes) for r in choice)
    other = attack._aim(task.replace(seed=1), known)
    assert torch.equal(other.classes, aim.classes)
    assert not all(torch.equal(other.code[layer], aim.code[layer]) for layer in aim.code)


def test_with_no_usable_reference_images_are_attacked_all_the_same(gated_digits):
    task = gated_digits.replace(reference_labels=(gated_digits.reference_labels + 1) % 10, bound=Bound("linf", 0.3))
    found = attacked(PGDAdaptive(), task)
    assert found.isfinite().all()
    assert fooled(task, found).any()


def test_distance_of_paths_is_the_mean_cross_entropy_over_layers():
    generator = torch.Generator().manual_seed(0)
    code, wanted = (
        {name: torch.randn(3, width, generator=generator) for name, width in (("a", 4), ("b", 7))} for _ in "xy"
    )
    found = pgd_adaptive._distance(code, wanted)
    for row in range(3):
        layers = []
        for name in code:
            terms = []
            for z, bit in zip(code[name][row].tolist(), wanted[name][row].tolist(), strict=True):
                chance = 1 / (1 + math.exp(-z))
                terms.append(-math.log(chance if bit > 0 else 1 - chance))
            layers.append(sum(terms) / len(terms))
        assert found[row].item() == pytest.approx(sum(layers) / 2, rel=1e-5)


# ---- the laws on gated networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", VARIANTS, ids=str)
@pytest.mark.parametrize("bound", BOUNDS, ids=["linf", "l2"])
def test_bound_and_range_are_kept_exactly(gated_digits, attack, bound):
    task = gated_digits.replace(bound=bound)
    found = attacked(attack, task)
    change = found.numpy().astype(np.float64) - task.images.numpy().astype(np.float64)
    largest = np.abs(change).max() if bound.norm == "linf" else np.sqrt((change**2).sum((1, 2, 3))).max()
    assert 0.5 * bound.size < largest <= bound.size
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("attack", VARIANTS, ids=str)
def test_an_image_alone_comes_out_as_in_a_batch(gated_digits, attack):
    task = gated_digits.replace(fitted=attack.fit(gated_digits))
    alone = [
        attack.attack(
            task.replace(
                places=task.places[row : row + 1],
                images=task.images[row : row + 1],
                labels=task.labels[row : row + 1],
            )
        )
        for row in (0, 5, 11)
    ]
    assert (attack.attack(task)[[0, 5, 11]] - torch.cat(alone)).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("attack", "forward", "backward"),
    [  # of 12 images, 48 references, 61 passes an image
        (PGDAdaptive(), 48 + 12 * (1 + 28), 12 * 27),
        (PGDAdaptive(strongest=True), 48 + 12 * (1 + 2 * 14), 12 * 2 * 13),
        (PGDAdaptive(weight=0.0), 12 * 31, 12 * 30),
        (PGDAdaptive(weight=0.0, strongest=True), 12 * 2 * 15, 12 * 2 * 14),
    ],
    ids=str,
)
def test_passes_spent_are_those_announced(gated_digits, attack, forward, backward):
    attacked(attack, gated_digits.replace(budget=61))
    assert (gated_digits.model.passes.forward, gated_digits.model.passes.backward) == (forward, backward)


@pytest.mark.parametrize("attack", VARIANTS, ids=str)
def test_the_least_budget_it_accepts_is_enough(gated_digits, attack):
    needed = next(budget for budget in range(99) if attack.why_not(gated_digits.replace(budget=budget)) is None)
    reason = attack.why_not(gated_digits.replace(budget=needed - 1))
    assert reason == f"needs {needed} passes an image, the budget is {needed - 1}"
    gated_digits.model.passes.limit = needed * len(gated_digits)
    assert attacked(attack, gated_digits.replace(budget=needed)).isfinite().all()


def test_gates_are_as_before_afterwards(gated_digits):
    attacked(PGDAdaptive(), gated_digits)
    layers = gated_layers(gated_digits.model.network).values()
    assert all(layer.watch is None and layer.edit is None and not layer.is_soft for layer in layers)


def test_reasons_to_skip(tiny_classifier, gated_digits):
    assert PGDAdaptive().why_not(gated_digits.replace(bound=Bound.parse("none"))) == (
        "needs a bound (linf or l2), the condition has none"
    )
    images = torch.zeros(2, 3, 8, 8)
    plain = task_for(tiny_classifier, images, torch.tensor([0, 1]))
    assert PGDAdaptive().why_not(plain) is None
    for attack in (PGDAdaptive(match="path"), PGDAdaptive(weight=0.0), PGDAdaptive(strongest=True)):
        assert attack.why_not(plain) == "needs gates that depend on the image, tiny has none"


def test_static_gates_say_nothing_so_that_features_are_matched():
    network = nn.Sequential(
        nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    attach(network, lambda name, conv: FixedGate(torch.tensor([True, False])))
    shape = {"image_shape": (2, 4, 4), "num_classes": 2, "mean": [0.5] * 2, "std": [0.5] * 2}
    model = Classifier(network, name="pruned", taps={}, **shape)
    task = task_for(model, flat_images([0.5, 0.5]), torch.tensor([0]))
    assert PGDAdaptive(weight=0.0).why_not(task) == "needs gates that depend on the image, pruned has none"
    assert list(PGDAdaptive().fit(task).code) == ["penultimate"]
