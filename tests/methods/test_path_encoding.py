"""Detection by calculation paths, on networks whose gates are planted: filter k is on where channel k is bright."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from bench import registry
from bench.contract import Skip
from bench.gating import Gate, attach, gated_layers
from bench.zoo.classifier import Classifier
from methods.detection.path_encoding import PathEncoding, class_paths_of, paths_of
from tests.methods.detection_tasks import detection_task, judged

CHANNELS, LAYERS = 6, 4


class Brightness(Gate):
    """Filter k is on where the layer's input channel k is positive on average."""

    def scores(self, squeezed):
        return squeezed


def identity():
    conv = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv


class Planted(nn.Module):
    """Gated layer l sees the channels shifted l places to the right; the logits are the channels' means."""

    def __init__(self):
        super().__init__()
        self.stem, self.layers = identity(), nn.ModuleList(identity() for _ in range(LAYERS))
        self.head = nn.Linear(CHANNELS, CHANNELS, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, images):
        features = self.stem(images)
        unused = sum(layer(features.roll(shift, 1)) for shift, layer in enumerate(self.layers))
        return self.head((features + 0 * unused).mean((2, 3)))


def wrapped(network):
    shape = (CHANNELS, 2, 2)
    kwargs = {"name": "planted", "image_shape": shape, "num_classes": CHANNELS, "taps": {}}
    return Classifier(network, mean=[0.5] * CHANNELS, std=[0.5] * CHANNELS, **kwargs)


@pytest.fixture
def planted():
    network = Planted()
    attach(network, lambda path, conv: Brightness())
    assert len(gated_layers(network)) == LAYERS
    return wrapped(network)


def pictures(bits):
    """(N, C) 0 and 1 → images whose channels are bright or dark, one value each, in a little noise."""
    noise = torch.rand(*bits.shape, generator=torch.Generator().manual_seed(len(bits)))
    return (0.2 + 0.5 * bits + 0.1 * noise)[:, :, None, None].expand(-1, -1, 2, 2).contiguous()


def coins(count, seed):
    return torch.randint(0, 2, (count, CHANNELS), generator=torch.Generator().manual_seed(seed)).float()


def bits_by_hand(images, layer):
    return [[float(image[(k - layer) % CHANNELS].mean() > 0.5) for k in range(CHANNELS)] for image in images]


def planted_task(model, count, *, seed=0, tell=True, **fields):
    """As many pictures to learn from as to judge; every second one attacked, which channel 2 tells if anything does."""
    attacked = torch.arange(count) % 2 == 1
    images, known = (coins(count, seed + side) for side in (0, 1))
    if tell:
        images[:, 2] = known[:, 2] = attacked.float()
    return detection_task(
        model,
        pictures(images),
        seed=seed,
        known=pictures(known),
        known_attacked=attacked,
        known_originals=torch.arange(count) // 2,
        known_labels=torch.arange(count) // 2 % 3,
        **fields,
    )


def auroc(method, task):
    return roc_auc_score(torch.arange(len(task)) % 2, judged(method, task))


CLASSIFIERS = ["random_forest", "adaboost", "gradient_boosting", "logistic_regression"]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_planted_bits_that_tell_attacks_are_found_by_every_classifier(planted, classifier):
    assert auroc(PathEncoding(classifier=classifier), planted_task(planted, 60)) == 1.0


@pytest.mark.parametrize("classifier", ["random_forest", "logistic_regression"])
def test_paths_that_tell_nothing_are_no_better_than_chance(planted, classifier):
    area = auroc(PathEncoding(classifier=classifier), planted_task(planted, 2000, tell=False))
    assert area == pytest.approx(0.5, abs=0.05)  # four standard errors


def test_features_are_the_bits_of_all_layers(planted):
    images = pictures(coins(5, 3))
    found = PathEncoding().encoded(planted_task(planted, 4), {}, images)
    expected = torch.cat([torch.tensor(bits_by_hand(images, layer)) for layer in range(LAYERS)], 1)
    assert torch.equal(found, expected)


def test_late_features_are_those_of_the_last_third_of_the_layers(planted):
    images = pictures(coins(5, 3))
    found = PathEncoding(late=True).encoded(planted_task(planted, 4), {}, images)
    assert torch.equal(found, torch.tensor(bits_by_hand(images, LAYERS - 1)))  # four layers: one


def test_scores_are_what_the_gates_see_before_they_decide(planted):
    images = pictures(coins(5, 3))
    found = PathEncoding(features="scores").encoded(planted_task(planted, 4), {}, images)
    seen = [image.mean((1, 2)) * 2 - 1 for image in images]  # the wrapper takes images to (x − 0.5) / 0.5
    expected = torch.stack([torch.cat([one.roll(layer) for layer in range(LAYERS)]) for one in seen])
    torch.testing.assert_close(found, expected)


def test_the_path_of_a_class_is_what_most_of_its_pictures_use_that_get_their_label_right(planted):
    bits = torch.tensor(
        [[1, 0, 1, 0, 0, 0], [1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]]
    ).float()
    images = pictures(bits)
    images[:4].clamp_(max=0.75)
    images[[0, 1, 2], 0] = images[3, 1] = 0.9  # class 0 three times and class 1; the last is not of class 2
    class_paths = class_paths_of(paths_of(planted, images), torch.tensor([0, 0, 0, 1, 2]))
    first = next(iter(class_paths.values())).int().tolist()
    assert first[0] == [1, 0, 1, 0, 0, 0]
    assert first[1] == [0, 1, 0, 0, 1, 1]
    assert first[2] == first[5] == [1, 0, 0, 0, 0, 0]  # of all four: one half is not most


def test_hamming_features_are_shares_of_bits_unlike_the_predicted_class(planted):
    clean = pictures(coins(30, 7))
    with torch.no_grad():
        labels = planted(clean).argmax(1)
    task = planted_task(planted, 12, clean=clean, clean_labels=labels)
    method = PathEncoding(features="hamming")
    class_paths = method.fit(task).class_paths
    found = method.encoded(task, class_paths, task.images)
    with torch.no_grad():
        predicted = planted(task.images).argmax(1)
    for layer, path in enumerate(class_paths.values()):
        for image, label, share in zip(bits_by_hand(task.images, layer), predicted, found[:, layer], strict=True):
            unlike = sum(bool(bit) != bool(usual) for bit, usual in zip(image, path[label], strict=True))
            assert share.item() == pytest.approx(unlike / CHANNELS)
    assert found.max() > 0


def test_without_clean_pictures_told_right_there_are_no_paths_of_classes(planted):
    clean = pictures(torch.eye(CHANNELS))
    task = planted_task(planted, 12, clean=clean, clean_labels=(torch.arange(CHANNELS) + 1) % CHANNELS)
    with pytest.raises(Skip, match="told right, has 0 of 6"):
        PathEncoding(features="hamming").fit(task)


def test_the_control_looks_at_the_logits_and_needs_no_gates():
    model = wrapped(Planted())
    method = PathEncoding(features="logits")
    task = planted_task(model, 60)
    assert method.why_not(task) is None
    assert auroc(method, task) == 1.0  # channel 2 is logit 2
    torch.testing.assert_close(method.encoded(task, {}, task.images), model(task.images))


@pytest.mark.parametrize("features", ["bits", "scores", "hamming"])
def test_a_network_without_gates_is_refused(features):
    reason = PathEncoding(features=features).why_not(planted_task(wrapped(Planted()), 4))
    assert reason == "needs gates, planted has none"


def test_forests_of_one_seed_agree_and_those_of_another_differ(planted):
    task = planted_task(planted, 40, tell=False)
    first, again = (judged(PathEncoding(), task) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, judged(PathEncoding(), task.replace(seed=1)))


@pytest.mark.parametrize("attacked", [False, True])
def test_pictures_of_one_kind_leave_nothing_to_learn(planted, attacked):
    task = planted_task(planted, 8)
    with pytest.raises(Skip, match="has 8 and 0" if attacked else "has 0 and 8"):
        PathEncoding().fit(task.replace(known_attacked=torch.full((8,), attacked)))


@pytest.mark.parametrize(
    ("settings", "learning"),
    [({}, 24), ({"originals_per_class": 1}, 6), ({"features": "hamming"}, 24 + 7), ({"features": "logits"}, 24)],
)
def test_passes_spent_are_those_that_why_not_counts(planted, settings, learning):
    clean = pictures(coins(7, 5))
    with torch.no_grad():
        labels = planted(clean).argmax(1)
    planted.passes.forward = 0
    method = PathEncoding(**settings)
    task = planted_task(planted, 24, clean=clean, clean_labels=labels)
    judged(method, task)
    assert (planted.passes.forward, planted.passes.backward) == (learning + 24, 0)
    enough = math.ceil((learning + 24) / 24)
    assert method.why_not(task.replace(budget=enough - 1)) is not None


def test_variants_are_the_features_and_classifiers_of_the_protocol():
    names = registry.method_card("detection/path_encoding").variants
    made = {name: registry.make_method("detection/path_encoding", name) for name in names}
    assert {made[name].features for name in ("default", "scores", "hamming", "logits")} == {
        "bits",
        "scores",
        "hamming",
        "logits",
    }
    assert made["late"].late and made["late"].features == "bits"
    assert {one.classifier for one in made.values()} == set(CLASSIFIERS)
