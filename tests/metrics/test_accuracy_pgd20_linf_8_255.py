import pytest
import torch
from foolbox import PyTorchModel
from foolbox.attacks import LinfPGD
from foolbox.criteria import Misclassification

from bench.contract import ShapeError
from metrics.accuracy_pgd20_linf_8_255 import accuracy_pgd20_linf_8_255

REACH = 8 / 255


class Watching:
    """A linear network with two classes that keeps what it was shown."""

    def __init__(self, weights):
        self.weights, self.shown = weights, []

    def __call__(self, images):
        self.shown.append(images.detach().clone())
        return images.flatten(1) @ self.weights.T


@pytest.fixture
def linear():
    """A network, images that no step takes out of [0, 1], labels, and the margin of each label's logit."""
    generator = torch.Generator().manual_seed(0)
    network = Watching(torch.randn(2, 3 * 4 * 4, generator=generator))
    images = 0.2 + 0.6 * torch.rand(60, 3, 4, 4, generator=generator)
    labels = torch.randint(0, 2, (60,), generator=generator)
    logits = images.flatten(1) @ network.weights.T
    chosen = logits.gather(1, labels[:, None])[:, 0]
    return network, images, labels, 2 * chosen - logits.sum(1)


def test_on_a_linear_network_it_is_the_margin_in_the_l1_norm(linear):
    """The worst image within ε in each pixel costs ε · ‖w_0 − w_1‖₁ of the margin, and sign steps go straight there."""
    network, images, labels, margin = linear
    safe = margin > REACH * (network.weights[0] - network.weights[1]).abs().sum()
    right = margin > 0
    assert 5 < safe.sum() < right.sum() < 55
    assert accuracy_pgd20_linf_8_255(target=network, real=images, labels=labels).tolist() == safe.double().tolist()


def test_the_bound_and_the_range_are_kept(linear):
    network, images, labels, _ = linear
    images = (images - 0.2) / 0.6  # up to black and white
    accuracy_pgd20_linf_8_255(target=network, real=images, labels=labels)
    shown = torch.cat(network.shown)
    assert shown.min() >= 0 and shown.max() <= 1
    nearest = (shown[:, None] - images[None]).abs().flatten(2).amax(2).amin(1)
    assert REACH - 1e-6 < nearest.max() < REACH + 1e-6


def test_images_are_taken_at_equal_distances_and_the_others_have_no_value(linear):
    network, images, labels, _ = linear
    whole = accuracy_pgd20_linf_8_255(target=network, real=images, labels=labels)
    some = accuracy_pgd20_linf_8_255(target=network, real=images, labels=labels, count=8)
    places = [0, 7, 15, 22, 30, 37, 45, 52]
    assert some.isnan().logical_not().nonzero()[:, 0].tolist() == places
    assert some[places].tolist() == whole[places].tolist()


def test_an_image_that_is_wrong_already_is_wrong_and_costs_one_look(linear):
    network, images, _, _ = linear
    wrong = 1 - (images.flatten(1) @ network.weights.T).argmax(1)
    assert accuracy_pgd20_linf_8_255(target=network, real=images, labels=wrong).sum() == 0
    assert sum(map(len, network.shown)) == len(images)


def test_it_is_foolboxs_attack_but_for_images_fooled_on_the_way(digits_classifier, digits):
    images, labels = (part[1200:1400] for part in digits)
    ours = accuracy_pgd20_linf_8_255(target=digits_classifier, real=images, labels=labels)
    attack = LinfPGD(abs_stepsize=2 / 255, steps=20, random_start=False)
    model = PyTorchModel(digits_classifier, bounds=(0, 1), device="cpu")
    attacked = attack.run(model, images, Misclassification(labels), epsilon=REACH)
    with torch.no_grad():
        theirs = digits_classifier(attacked).argmax(1) == labels
    assert 0.3 < theirs.double().mean() < 0.97
    assert (ours <= theirs).all()
    assert (ours != theirs).sum() <= 2


def test_the_network_is_left_as_it_was_and_gradients_may_be_off(tiny_classifier):
    images, labels = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 10
    before = tiny_classifier.checksum()
    with torch.no_grad():
        labels[::2] = tiny_classifier(images[::2]).argmax(1)
        off = accuracy_pgd20_linf_8_255(target=tiny_classifier, real=images, labels=labels)
        assert not torch.is_grad_enabled()
    assert off.tolist() == accuracy_pgd20_linf_8_255(target=tiny_classifier, real=images, labels=labels).tolist()
    assert tiny_classifier.checksum() == before
    parameters = list(tiny_classifier.parameters())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in parameters)


def test_a_label_outside_the_classes_is_refused(linear):
    network, images, labels, _ = linear
    with pytest.raises(ShapeError, match="labels should lie in"):
        accuracy_pgd20_linf_8_255(target=network, real=images, labels=labels + 1)
