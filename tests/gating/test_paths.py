"""Paths are the bits of trained networks, image by image, and nothing else."""

import pytest
import torch

from bench.contract import SetupError, ShapeError
from bench.gating import attach, edited, paths_of, watched
from tests.gating.networks import CLASSES, SHAPE, classifier, gated, moody, pictures, salient, settled

COUNT = 11


@pytest.fixture
def images():
    return pictures(COUNT).sigmoid()


@pytest.fixture
def model():
    return classifier(gated("inception")[0])


def test_bits_are_what_the_gates_did_and_scores_are_behind_them(model, images):
    paths = paths_of(model, images)
    with torch.no_grad(), watched(model.network) as seen:
        logits = model.network(model.normalise(images))
    assert list(paths.bits) == list(paths.scores) == list(seen)
    for name, bits in paths.bits.items():
        assert bits.dtype == torch.bool
        assert torch.equal(bits, seen[name].gates == 1)
        assert torch.equal(bits, paths.scores[name] > 0)
        assert torch.allclose(paths.scores[name], seen[name].scores, atol=1e-4)
    assert torch.allclose(paths.logits, logits, atol=1e-4)
    joined = paths.joined()
    assert joined.shape == (COUNT, sum(layer.conv.out_channels for layer in map(model.network.get_submodule, seen)))
    assert len(joined.unique(dim=0)) > 1


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_a_path_does_not_depend_on_its_neighbours(model, images, batch_size):
    whole, parts = paths_of(model, images), paths_of(model, images, batch_size)
    assert torch.equal(whole.joined(), parts.joined())
    assert torch.allclose(whole.logits, parts.logits, atol=1e-5)
    one = paths_of(model, images[4:5])
    assert torch.equal(one.joined(), whole.joined()[4:5])


def test_no_image_has_no_path(model):
    paths = paths_of(model, torch.zeros(0, *SHAPE))
    assert paths.joined().shape == (0, paths_of(model, torch.zeros(1, *SHAPE)).joined().shape[1])
    assert paths.joined().dtype == torch.bool
    assert paths.logits.shape == (0, CLASSES)


def test_paths_of_salience_gates_are_the_filters_that_win(images):
    model = classifier(gated("plain", salient)[0])
    paths = paths_of(model, images)
    for name, bits in paths.bits.items():
        assert (bits.sum(1) <= model.network.get_submodule(name).gate.kept).all()
    with torch.no_grad(), watched(model.network) as seen:
        model(images)
    assert all(torch.equal(bits, seen[name].gates[:COUNT] > 0) for name, bits in paths.bits.items())


def test_looking_leaves_no_trace(model, images):
    before = model.checksum()
    paths_of(model, images)
    assert model.checksum() == before
    assert all(layer.watch is None for layer in model.network.modules() if hasattr(layer, "watch"))


def test_paths_are_those_of_the_gates_though_edits_say_otherwise(model, images):
    plain = paths_of(model, images)
    last = list(plain.bits)[-1]
    with edited(model.network, {last: torch.zeros_like}):
        paths = paths_of(model, images)
    assert torch.equal(paths.bits[last], plain.bits[last])
    assert not torch.equal(paths.logits, plain.logits)


def test_a_network_in_training_has_no_paths(model, images):
    model.network.train()
    with pytest.raises(SetupError, match="in training mode"):
        paths_of(model, images)


def test_a_network_without_gates_has_no_paths(images):
    with pytest.raises(SetupError, match="no gates"):
        paths_of(classifier(settled("plain")), images)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1.5])
def test_what_is_no_intensity_has_no_path(model, images, value):
    images[2, 1, 3, 3] = value
    with pytest.raises(ShapeError, match="images"):
        paths_of(model, images)


def test_scores_that_are_no_numbers_name_their_layer(images):
    network, layers = gated("plain")
    name, layer = list(layers.items())[1]
    layer.gate.expand.bias.data[3] = torch.nan
    with pytest.raises(ShapeError, match=f"scores of {name}"):
        paths_of(classifier(network), images)


def test_paths_of_different_networks_are_not_compared(model, images):
    one = paths_of(model, images)
    one.check_like(paths_of(model, images[:2]))
    shallow = settled("plain")
    attach(shallow, moody)
    with pytest.raises(SetupError, match="paths of different networks"):
        one.check_like(paths_of(classifier(shallow), images))
