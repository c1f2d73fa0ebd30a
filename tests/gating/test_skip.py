"""Skipping what is off gives what masking gives, image by image and batch by batch, and never more than asked."""

import pytest
import torch
from torch import nn

from bench.contract import SetupError
from bench.gating import FixedGate, attach, edited, gated_layers, skipping, straight_through, watched
from tests.gating.networks import FAMILIES, GATES, all_off, classifier, fixed, gated, mixed, moody, pictures

ANY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def both(network, images):
    """Logits by masking and by skipping."""
    masked = network(images)
    with skipping(network):
        return masked, network(images)


def assert_close(one, other):
    assert one.shape == other.shape
    assert (one - other).abs().max() <= 1e-4 * max(1.0, one.abs().max().item())


def bits_of(network, images):
    with watched(network) as seen:
        network(images)
    return torch.cat([shown.gates != 0 for shown in seen.values()], 1)


@ANY
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("count", [1, 5])
def test_skipping_gives_what_masking_gives(family, gates, count):
    network, _ = gated(family, GATES[gates])
    images = pictures(count)
    assert_close(*both(network, images))
    bits = bits_of(network, images)
    assert not bits.all(), "or nothing was skipped"


@ANY
def test_images_of_equal_and_of_different_paths_share_a_batch(family):
    network, _ = gated(family)
    few = pictures(3)
    images = few[torch.tensor([0, 1, 0, 2, 1, 0])]
    assert len(bits_of(network, images).unique(dim=0)) > 1
    assert_close(*both(network, images))


@ANY
def test_skipping_goes_on_to_an_image_with_another_path(family):
    """What one pass left behind, alone or in a batch, is not taken for the next image's."""
    network, _ = gated(family, mixed)
    images = pictures(4)
    expected = [network(images[:1]), network(images), network(images[1:2]), network(images[2:]), network(images[:1])]
    with skipping(network):
        parts = (images[:1], images, images[1:2], images[2:], images[:1])
        for part, wanted in zip(parts, expected, strict=True):
            assert_close(network(part), wanted)


@ANY
@pytest.mark.parametrize("gates", [moody, fixed])
@pytest.mark.parametrize("count", [1, 4])
def test_edits_hold_while_skipping_whichever_comes_first(family, gates, count):
    network, layers = gated(family, gates)
    images = pictures(count)
    first, *_, last = layers
    edits = {
        first: lambda bits: bits * (torch.arange(bits.shape[1]) % 2),  # half of them off
        last: lambda bits: 0.5 * torch.ones_like(bits),  # not even bits
    }
    plain = network(images)
    with edited(network, edits):
        masked, skipped = both(network, images)
    assert not torch.equal(masked, plain)
    assert_close(masked, skipped)
    with skipping(network):
        assert_close(network(images), plain)
        with edited(network, edits):
            assert_close(network(images), masked)
        assert_close(network(images), plain)


@pytest.mark.parametrize("family", ["plain", "residual with projections", "inception"])
@pytest.mark.parametrize("shape", [(3, 16, 12), (3, 9, 17)])
def test_pictures_need_not_be_square(family, shape):
    network, _ = gated(family)
    assert_close(*both(network, pictures(1, shape)))
    assert_close(*both(network, pictures(3, shape)))


@pytest.mark.parametrize("count", [1, 3])
def test_maps_of_one_pixel_are_maps(count):
    network, _ = gated("residual with projections")
    assert_close(*both(network, pictures(count, (3, 2, 2))))
    assert_close(*both(network, pictures(count, (3, 1, 1))))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gates", [moody, fixed])
def test_no_images_give_no_logits(family, gates):
    network, _ = gated(family, gates)
    masked, skipped = both(network, pictures(0))
    assert masked.shape == skipped.shape == (0, 5)


@ANY
@pytest.mark.parametrize("count", [1, 3])
def test_a_pixel_that_is_no_number_shows_in_the_logits(family, count):
    network, _ = gated(family)
    images = pictures(count)
    images[0, :, 3, 3] = torch.nan
    masked, skipped = both(network, images)
    assert masked[0].isnan().all() and skipped[0].isnan().all()
    assert masked[1:].isfinite().all()
    assert_close(masked[1:], skipped[1:]) if count > 1 else None


def test_off_is_zero_behind_the_norm_not_the_norm_of_a_zero():
    network, _ = gated("plain", all_off)
    linear = network[-1]
    masked, skipped = both(network, pictures(2))
    assert torch.equal(masked, linear.bias.expand(2, -1))
    assert torch.equal(skipped, linear.bias.expand(2, -1))


def test_skipping_leaves_nothing_behind():
    network, layers = gated("inception")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RuntimeError, match="channels"), skipping(network):
        network(torch.zeros(1, 4, 8, 8))
    assert all(layer.skip is None and layer.lent is None for layer in layers.values())
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_skipping_within_skipping_goes_on_afterwards():
    network, layers = gated("plain")
    images = pictures(1)
    masked = network(images)
    with skipping(network):
        outer = [layer.skip for layer in layers.values()]
        with skipping(network):
            assert_close(network(images), masked)
        assert [layer.skip for layer in layers.values()] == outer
        assert_close(network(images), masked)


def test_training_mode_is_refused_even_of_one_layer():
    network, layers = gated("plain")
    with pytest.raises(SetupError, match="in training mode"), skipping(network.train()):
        pass
    network.eval()
    next(iter(layers.values())).train()
    with pytest.raises(SetupError, match="in training mode"), skipping(network):
        pass


def test_a_network_without_gates_is_refused():
    with pytest.raises(SetupError, match="no gates"), skipping(nn.Sequential(nn.Conv2d(3, 4, 1)).eval()):
        pass


def test_weights_are_those_at_the_start_of_each_context():
    network, layers = gated("plain")
    images = pictures(2)
    both(network, images)
    next(iter(layers.values())).norm.running_mean.add_(1)
    assert_close(*both(network, images))


def test_a_wrapped_network_may_skip():
    """The wrapper fills batches up; what fills them is skipped along."""
    network, _ = gated("inception")
    model = classifier(network)
    images = pictures(3).sigmoid()
    masked = model(images)
    with skipping(model.network):
        assert_close(model(images), masked)
        assert_close(model(images[:1]), masked[:1])


def test_bits_with_gradients_skip_too():
    network, _ = gated("residual")
    images = pictures(1)
    masked = network(images)
    with straight_through(network), skipping(network):
        assert_close(network(images), masked)


# ---- fixed masks cost nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["plain", "inception", "residual"])
def test_behind_fixed_masks_no_weight_is_cut_anew(family, monkeypatch):
    network, _ = gated(family, fixed)
    image, real, cut = pictures(1), torch.Tensor.index_select, []

    def index_select(tensor, dim, index):
        cut.append(tensor)
        return real(tensor, dim, index)

    monkeypatch.setattr(torch.Tensor, "index_select", index_select)
    with skipping(network):
        network(image)
        assert cut, "or weights are cut in another way, and this test sees nothing"
        cut.clear()
        network(image)
    assert not cut


def test_a_mask_of_all_filters_runs_the_convolution_as_it_is():
    network, _ = gated("residual", lambda path, conv: FixedGate(torch.ones(conv.out_channels)))
    images = pictures(1)
    assert_close(*both(network, images))


def test_a_mask_read_from_a_file_is_the_one_that_is_skipped():
    network, _ = gated("plain", fixed)
    other, _ = gated("plain", lambda path, conv: FixedGate(torch.arange(conv.out_channels) % 2))
    images = pictures(1)
    both(network, images)
    network.load_state_dict(other.state_dict())
    masked, skipped = both(network, images)
    assert torch.equal(masked, other(images))
    assert_close(masked, skipped)


def test_gates_put_on_twice_are_refused_and_the_first_stay():
    network, layers = gated("plain")
    with pytest.raises(SetupError, match="has gates already"):
        attach(network, moody)
    assert gated_layers(network) == layers
    assert network(pictures(1)).shape == (1, 5)


def test_few_kernels_are_kept_however_many_paths_there_are(monkeypatch):
    monkeypatch.setattr("bench.gating.skip.KERNELS_KEPT", 1)  # one path a layer
    network, _ = gated("residual")
    images = pictures(6)
    masked = network(images)
    with skipping(network):
        alone = torch.cat([network(image[None]) for image in images])
        kept = [len(layer.skip.__self__.cuts) for layer in gated_layers(network).values()]
    assert_close(masked, alone)
    assert kept == [1] * len(kept)


def test_gates_cannot_be_watched_while_skipping():
    network, _ = gated("residual")
    with skipping(network), watched(network), pytest.raises(SetupError, match="watched while"):
        network(pictures(1))
