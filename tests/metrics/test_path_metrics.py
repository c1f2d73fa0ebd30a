"""Metrics of paths on a network whose gates are planted, so that what they must find is known."""

import math

import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn

from bench.contract import ShapeError, Undefined, Unsupported
from bench.gating import FixedGate, Gate, SalienceGate, attach, edited, gated_layers
from bench.gating.statistics import information
from bench.zoo.classifier import Classifier
from metrics import _paths
from metrics import dynamic_gates as gates
from metrics import path_class_information as information_module
from metrics import silencing_selectivity as module
from metrics._paths import halves, predictions_without
from metrics.dynamic_gates import dynamic_gates
from metrics.path_class_information import path_class_information
from metrics.silencing_selectivity import silencing_selectivity

CLASSES, EACH = 4, 50
BACKUP = 0.4  # share of the images of each class that show it a second time, to a filter that is always on
UNGATED = Undefined("the network has no gates")
TOO_FEW = Undefined("two classes with two images each are needed: some to learn from and others to be judged")


class PlantedGate(Gate):
    """Filter c is on where channel c is bright, for the first ``followed``; the others always are."""

    def __init__(self, followed=CLASSES, scale=False):
        super().__init__()
        self.followed, self.binary = followed, not scale

    def scores(self, squeezed):
        bright = squeezed[:, : self.followed] - 0.5
        return torch.cat([bright, torch.ones_like(squeezed[:, self.followed :])], 1)

    def values(self, scores):
        return super().values(scores) if self.binary else 2.0 * scores.relu()


def subject(gate):
    """Classes 0 to 3 by the brightest of two channels each, 4 where nothing is bright; channels 8 and 9 are noise."""
    stem, conv, head = nn.Conv2d(10, 10, 1, bias=False), nn.Conv2d(10, 10, 1, bias=False), nn.Linear(10, 5)
    with torch.no_grad():
        for one in (stem, conv):
            one.weight.copy_(torch.eye(10)[:, :, None, None])
        head.weight.copy_(torch.cat([torch.eye(4, 10) + torch.eye(4, 10).roll(4, 1), torch.zeros(1, 10)]))
        head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.1]))
    network = nn.Sequential(stem, nn.ReLU(), conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    if gate is not None:
        attach(network, lambda path, conv: gate)
    return wrapped(network)


def wrapped(network):
    return Classifier(
        network, name="planted", image_shape=(10, 2, 2), num_classes=5, mean=[0.0] * 10, std=[1.0] * 10, taps={}
    )


def pictures(each=EACH, backup=BACKUP, seed=0):
    """(N, 10, 2, 2) and labels: channel y bright, for some channel 4 + y as well, the last two dark but not quite."""
    labels = torch.arange(each * CLASSES) % CLASSES
    shown = torch.eye(CLASSES)[labels]
    again = shown * (torch.arange(len(labels)) // CLASSES < backup * each)[:, None]
    noise = 0.05 * torch.rand(len(labels), 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([shown, again, noise], 1)[:, :, None, None].expand(-1, -1, 2, 2).clone(), labels


(REAL, LABELS), MANY = pictures(), pictures(each=500)


def roles(gate=None, real=REAL, labels=LABELS):
    return {"real": real, "labels": labels, "target": subject(gate or PlantedGate())}


def without_labels(given):
    return {name: value for name, value in given.items() if name != "labels"}


# ---- dynamic gates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("followed", [0, 1, 3, 4])
def test_as_many_gates_are_dynamic_as_follow_the_image(followed):
    value = dynamic_gates(**without_labels(roles(PlantedGate(followed))))
    assert value.item() == pytest.approx(followed / 10, abs=1e-12)


def test_a_gate_that_moves_for_less_than_one_image_in_a_hundred_is_not_dynamic():
    real = REAL[LABELS != 3]  # filter 3 is always off
    real = torch.cat([real, REAL[LABELS == 3][:1]])  # and now on for 1 of 151
    assert dynamic_gates(real=real, target=subject(PlantedGate())).item() == pytest.approx(0.3)
    real = torch.cat([real, REAL[LABELS == 3][1:2]])  # 2 of 152
    assert dynamic_gates(real=real, target=subject(PlantedGate())).item() == pytest.approx(0.4)


def test_gates_that_scale_are_on_where_their_factor_is_above_zero():
    assert dynamic_gates(**without_labels(roles(PlantedGate(scale=True)))).item() == pytest.approx(0.4)


def test_static_masks_have_no_dynamic_gate():
    assert dynamic_gates(**without_labels(roles(FixedGate(torch.arange(10) < 5)))).item() == 0


# ---- information ---------------------------------------------------------------------------------------------------


def test_bits_that_name_the_class_hold_nearly_all_of_it():
    values = path_class_information(**roles(None, *MANY))
    judged = values[~values.isnan()]
    assert len(judged) == 1000
    assert judged.min() > 1.8 and judged.max() < 2.0  # log2 of 4 classes, but for the penalty


def test_a_bit_that_tells_one_class_of_four_holds_what_it_can_at_most():
    values = path_class_information(**roles(PlantedGate(followed=1), *MANY))
    found = values[~values.isnan()].mean().item()
    most = 2 - 0.75 * math.log2(3)  # H(y) − H(y | is it class 0?)
    assert 0.8 * most < found <= most + 1e-9


def test_gates_that_ignore_the_image_hold_nothing():
    values = path_class_information(**roles(FixedGate(torch.arange(10) < 5)))
    assert values[~values.isnan()].abs().max() < 1e-6


def noisy_gates(seed=0, each=10, strength=0.0):
    """Bits by coin, for some pictures those of the class: all ten channels carry them, dark or bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(each * CLASSES) % CLASSES
    bits = torch.rand(len(labels), 10, generator=generator) < 0.5
    clear = torch.rand(len(labels), generator=generator) < strength
    bits[:, :4] = torch.where(clear[:, None], torch.eye(CLASSES)[labels] > 0, bits[:, :4])
    dither = 1e-4 * torch.rand(len(labels), 10, generator=generator)
    real = (0.2 + 0.6 * bits + dither)[:, :, None, None].expand(-1, -1, 2, 2).clone()
    return roles(PlantedGate(followed=10), real, labels), bits


def test_a_probe_that_is_worse_than_no_answer_counts_as_none():
    given, bits = noisy_gates()
    learned, judged = halves(given["real"], given["labels"], 2000)
    assert information(bits[learned], given["labels"][learned], bits[judged], given["labels"][judged], 4) == 0.0
    values = path_class_information(**given)
    assert values[judged].tolist() == [0.0] * 20 and values[learned].isnan().all()


def test_the_mean_is_that_of_the_report_on_paths_and_of_another_cross_entropy():
    given, bits = noisy_gates(each=100, strength=0.7)
    real, labels = given["real"], given["labels"]
    learned, judged = halves(real, labels, 2000)
    value = path_class_information(**given)[judged].mean().item()
    expected = information(bits[learned], labels[learned], bits[judged], labels[judged], 4)
    assert value == pytest.approx(expected, abs=1e-9) and 0.3 < value < 1.5
    chances = slow_probe(bits[learned].double(), labels[learned], bits[judged].double())
    assert value == pytest.approx(2 - log_loss(labels[judged], chances) / math.log(2), abs=2e-3)


def slow_probe(bits, labels, unseen, penalty=10.0):
    """Softmax regression by plain gradient descent: summed cross entropy + penalty / 2 · |W|²."""
    weights = torch.zeros(bits.shape[1], CLASSES, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    for _ in range(2000):
        loss = nn.functional.cross_entropy(bits @ weights + bias, labels, reduction="sum")
        loss = loss + penalty / 2 * weights.square().sum()
        with torch.no_grad():
            for one, slope in zip((weights, bias), torch.autograd.grad(loss, (weights, bias)), strict=True):
                one -= 0.005 * slope
    return (unseen @ weights + bias).softmax(1).detach()


# ---- silencing -----------------------------------------------------------------------------------------------------


def by_loops(given, sets, judged):
    """(K, K) accuracy lost on class d by silencing set c, one network pass an image."""
    layer = next(iter(gated_layers(given["target"].network)))
    lost = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
    counts = [0] * CLASSES
    for place in judged.tolist():
        image, label = given["real"][place : place + 1], int(given["labels"][place])
        counts[label] += 1
        before = given["target"](image).argmax().item() == label
        for c, off in enumerate(sets):
            keep = torch.tensor([0.0 if k in off else 1.0 for k in range(10)])
            with edited(given["target"].network, {layer: lambda gates, keep=keep: gates * keep}):
                lost[c, label] += before - (given["target"](image).argmax().item() == label)
    return lost / torch.tensor(counts, dtype=torch.float64)


def selectivity(lost):
    """Mean over classes of drop(c) − mean drop of the others."""
    own = [lost[c, c].item() for c in range(CLASSES)]
    others = [sum(lost[c, d].item() for d in range(CLASSES) if d != c) / (CLASSES - 1) for c in range(CLASSES)]
    return sum(a - b for a, b in zip(own, others, strict=True)) / CLASSES


def planted_sets(monkeypatch, drawn):
    """One filter is silenced at a time; random sets are the given ones."""
    monkeypatch.setattr(module, "SHARE", 0.1)
    sets = torch.zeros(len(drawn), 10, dtype=torch.bool)
    sets[range(len(drawn)), drawn] = True
    monkeypatch.setattr(module, "random_dynamic_filters", lambda rates, size, count, generator: sets)


def judged_of(values):
    return (~values.isnan()).nonzero()[:, 0]


def test_planted_filters_cost_their_class_alone_all_that_has_no_backup(monkeypatch):
    planted_sets(monkeypatch, [8] * 12)  # without channel 8 nothing is lost
    given = roles()
    values = silencing_selectivity(**given)
    judged = judged_of(values)
    has_backup = REAL[judged, 4:8, 0, 0].sum(1) > 0
    assert len(judged) == len(REAL) // 2
    assert values[judged].tolist() == (~has_backup).double().tolist()
    assert values[judged].mean().item() == pytest.approx(selectivity(by_loops(given, [[0], [1], [2], [3]], judged)))
    assert 0.4 < values[judged].mean() < 0.8  # 1 − BACKUP, but for the half that was drawn


def test_random_sets_that_happen_to_be_the_class_filters_leave_nothing(monkeypatch):
    planted_sets(monkeypatch, [0, 1, 2, 3] * 3)
    values = silencing_selectivity(**roles())
    assert values[judged_of(values)].abs().max() == 0


def test_the_mean_over_images_is_the_mean_over_classes_less_that_of_the_draws(monkeypatch):
    drawn = [[1, 0, 2, 2], [0, 0, 0, 0], [3, 1, 2, 0]]
    planted_sets(monkeypatch, [k for draw in drawn for k in draw])
    given = roles()
    values = silencing_selectivity(**given)
    judged = judged_of(values)
    own = selectivity(by_loops(given, [[0], [1], [2], [3]], judged))
    chance = [selectivity(by_loops(given, [[k] for k in draw], judged)) for draw in drawn]
    assert chance[1] == pytest.approx(0)  # one set for all classes is never selective
    assert values[judged].mean().item() == pytest.approx(own - sum(chance) / 3, abs=1e-12) and sum(chance) > 0


def test_scaling_gates_are_silenced_as_well(monkeypatch):
    planted_sets(monkeypatch, [8] * 12)
    values = silencing_selectivity(**roles(PlantedGate(scale=True), *pictures(backup=0)))
    assert values[judged_of(values)].tolist() == [1.0] * (len(REAL) // 2)


def test_random_sets_are_new_for_every_class_and_the_same_every_time(monkeypatch):
    asked = []
    real = module.random_dynamic_filters
    monkeypatch.setattr(module, "random_dynamic_filters", lambda *given: asked.append(real(*given)) or asked[-1])
    first, second = (silencing_selectivity(**roles()) for _ in range(2))
    assert torch.equal(first.nan_to_num(-9), second.nan_to_num(-9)) and torch.equal(*asked)
    assert asked[0].shape == (12, 10) and (asked[0].sum(1) == 2).all()  # a fifth of ten
    assert len(asked[0].unique(dim=0)) > 3 and not asked[0][:, 4:].any()


@pytest.mark.parametrize("followed", [0, 1])
def test_without_two_dynamic_filters_there_is_no_selectivity(followed):
    answer = silencing_selectivity(**roles(PlantedGate(followed)))
    assert answer == Undefined("fewer than two gates of 2, the last with gates, depend on the image")


@pytest.mark.parametrize(("followed", "size"), [(2, 1), (3, 1), (4, 2), (8, 2)])
def test_a_fifth_is_silenced_at_most_half_of_what_depends_on_the_image_and_nothing_else(monkeypatch, followed, size):
    asked = []

    def counted(target, images, layer, sets):
        asked.append(sets)
        return torch.zeros(len(sets), len(images), dtype=torch.int64)

    monkeypatch.setattr(module, "predictions_without", counted)
    silencing_selectivity(**roles(PlantedGate(followed)))
    assert (asked[0].sum(1) == size).all() and not asked[0][:, followed:].any()


# ---- the part of the network behind a layer ------------------------------------------------------------------------


class Branches(nn.Module):
    """Residual sums in place, a shape that is read, two gated layers behind another that depend on it."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(3, 8, 3, padding=1), *self.pair())
        self.left, self.right = self.pair()
        self.head = nn.Linear(16, 5)

    @staticmethod
    def pair():
        return nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images):
        stem = torch.relu_(self.stem(images))
        inner = torch.relu_(self.first(stem))
        inner = self.second(inner)
        inner += stem
        joined = torch.cat([self.left(inner), self.right(inner)], 1)
        stem += 1.0  # what was kept must not have changed for the next set
        joined = joined * stem.mean()
        return self.head(torch.relu_(joined).mean((2, 3)).view(images.shape[0], -1))


@pytest.fixture(scope="module")
def branching():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Branches()
        attach(network, lambda path, conv: SalienceGate(conv.in_channels, conv.out_channels, keep=0.7))
        network.head.weight.data *= 100
    return Classifier(
        network, name="branches", image_shape=(3, 6, 6), num_classes=5, mean=[0.5] * 3, std=[0.5] * 3, taps={}
    )


@pytest.mark.parametrize("layer", ["first", "second", "left", "right"])
def test_running_on_from_a_layer_is_running_it_all_with_the_filters_off(branching, layer, monkeypatch):
    monkeypatch.setattr(_paths, "BATCH", 16)
    generator = torch.Generator().manual_seed(1)
    images, off = torch.rand(40, 3, 6, 6, generator=generator), torch.rand(6, 8, generator=generator) < 0.5
    found = predictions_without(branching, images, layer, off)
    for one, predictions in zip(off, found, strict=True):
        keep = (~one).float()
        with torch.no_grad(), edited(branching.network, {layer: lambda gates, keep=keep: gates * keep}):
            assert torch.equal(predictions, branching(images).argmax(1))
    assert len(found.unique(dim=0)) > 2  # or the sets would make no difference


def test_what_is_not_behind_the_layer_is_run_once(branching):
    calls = []
    handles = [
        getattr(branching.network, name).register_forward_hook(lambda *_, name=name: calls.append(name))
        for name in ("stem", "first", "second", "left", "right", "head")
    ]
    predictions_without(branching, torch.rand(4, 3, 6, 6), "left", torch.eye(8, dtype=torch.bool)[:5])
    for handle in handles:
        handle.remove()
    assert calls == ["stem", "first", "second", "left", "right", "head"] + ["head"] * 5


def test_a_network_that_cannot_be_traced_is_not_supported():
    class Undecided(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    model = wrapped(nn.Sequential(subject(PlantedGate()).network, Undecided()))
    with pytest.raises(Unsupported, match="cannot be traced"):
        silencing_selectivity(real=REAL, labels=LABELS, target=model)


# ---- whose paths are looked at -------------------------------------------------------------------------------------


def test_halves_are_disjoint_and_have_equally_many_of_each_class():
    labels = torch.tensor([7] * 9 + [2] * 5 + [4])  # the one image of class 4 is left out
    learned, judged = halves(torch.rand(15, 3, 4, 4, generator=torch.Generator().manual_seed(0)), labels, 100)
    assert labels[learned].tolist() == labels[judged].tolist() == [2, 2, 7, 7]
    assert len({*learned.tolist(), *judged.tolist()}) == 8


@pytest.mark.parametrize(("most", "each"), [(100, 10), (13, 3), (8, 2), (4, 1), (3, 0)])
def test_halves_together_are_no_more_than_asked_for(most, each):
    labels = torch.arange(40) % 2
    learned, judged = halves(torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0)), labels, most)
    assert len(learned) == len(judged) == 2 * each


def test_a_half_is_the_same_pictures_in_whatever_order_and_neither_the_brighter():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(600, 3, 4, 4, generator=generator), torch.arange(600) % 3
    order = torch.randperm(600, generator=generator)
    halved, shuffled = halves(images, labels, 300), halves(images[order], labels[order], 300)
    for one, other in zip(halved, shuffled, strict=True):
        assert torch.equal(one, order[other])
    brightness = images.flatten(1).mean(1)
    everywhere = brightness.std() / 150**0.5
    assert all((brightness[half].mean() - brightness.mean()).abs() < 3 * everywhere for half in halved)


def test_of_many_images_some_are_looked_at_of_all_classes_though_these_come_in_turns(monkeypatch):
    monkeypatch.setattr(gates, "MOST_IMAGES", 50)
    model = subject(PlantedGate())
    assert dynamic_gates(real=REAL, target=model).item() == pytest.approx(0.4)
    assert model.passes.total == 50


def test_as_many_images_as_asked_for_are_learned_from_and_judged(monkeypatch):
    monkeypatch.setattr(information_module, "MOST_IMAGES", 64)
    given = roles()
    judged = judged_of(path_class_information(**given))
    assert given["target"].passes.total == 64
    assert LABELS[judged].bincount().tolist() == [8] * CLASSES  # though the labels come in turns


def test_silencing_is_of_the_first_classes(monkeypatch):
    monkeypatch.setattr(module, "CLASSES", 2)
    values = silencing_selectivity(**roles())
    assert LABELS[judged_of(values)].unique().tolist() == [0, 1]


# ---- no value ------------------------------------------------------------------------------------------------------


def test_a_network_without_gates_has_none_of_them():
    given = {"real": REAL, "labels": LABELS, "target": subject(None)}
    assert dynamic_gates(**without_labels(given)) == UNGATED
    assert path_class_information(**given) == silencing_selectivity(**given) == UNGATED


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_images_of_a_class_are_a_reason(count):
    given = roles(None, REAL[:count], LABELS[:count])
    assert path_class_information(**given) == silencing_selectivity(**given) == TOO_FEW


def test_no_image_has_no_dynamic_gates():
    assert dynamic_gates(real=REAL[:0], target=subject(PlantedGate())) == Undefined("there is no image")


@pytest.mark.parametrize("metric", [path_class_information, silencing_selectivity])
def test_images_out_of_range_and_labels_of_others_are_refused(metric):
    with pytest.raises(ShapeError, match="real"):
        metric(**roles(None, REAL * 255))
    with pytest.raises(ShapeError, match="labels"):
        metric(**roles(None, REAL, LABELS[:7]))
