"""The generator: chains of shapes, where condition and matrix come in, dropout, weights and their number."""

import pytest
import torch
from torch import nn

from bench.conditioned_generator.conditions import factored_cross, hot_matrix
from bench.conditioned_generator.network import Generator
from bench.contract import SetupError


def made(shape=(1, 28, 28), **changes):
    settings = {
        "classes": 10,
        "image_shape": shape,
        "condition": "soft",
        "matrix": "auto",
        "body": "transposed",
        "width": 1,
        "latent": 100,
        "dropout": (0.0, 0.0),
        "generator": torch.Generator().manual_seed(0),
    }
    return Generator(**settings | changes).eval()


def inputs(network, count=1):
    latents = torch.randn(count, network.latent, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % network.classes
    vectors = torch.full((count, network.classes), 1 / network.classes)
    return latents, vectors, labels


def shown(network, count=1, kept=None):
    """(images, what goes into each block, what comes out of it)."""
    went_in, came_out = [], []

    def note(block, given, answer):
        went_in.append(given[0])
        came_out.append(answer)

    hooks = [block.register_forward_hook(note) for block in (*network.early, *network.late)]
    with torch.no_grad():
        images = network(*inputs(network, count), kept)
    for hook in hooks:
        hook.remove()
    return images, went_in, came_out


def sides(network):
    images, went_in, came_out = shown(network)
    assert images.shape == (1, *network.image_shape)
    assert images.min() >= 0 and images.max() <= 1
    return [went_in[0].shape[-1], *(maps.shape[-1] for maps in came_out)]


# ---- chains --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["transposed", "resize"])
@pytest.mark.parametrize("matrix", ["square", "none"])
def test_pictures_of_28_pixels_grow_as_group_codes_do(body, matrix):
    assert sides(made(body=body, matrix=matrix)) == [1, 4, 7, 10, 11, 12, 24, 27, 28]


@pytest.mark.parametrize("body", ["transposed", "resize"])
def test_pictures_of_32_pixels_grow_by_the_shorter_chain(body):
    assert sides(made((3, 32, 32), body=body)) == [1, 4, 7, 10, 13, 16, 32, 32]


@pytest.mark.parametrize("body", ["transposed", "resize"])
@pytest.mark.parametrize(("classes", "side"), [(1000, 32), (10, 10)])
def test_pictures_of_224_pixels_start_at_7_and_are_upsampled(body, classes, side):
    network = made((3, 224, 224), body=body, classes=classes)
    assert sides(network) == [1, 7, 14, 32, 56, 112, 224, 224]
    assert network.side == side
    later = [module for block in (*network.early[1:], *network.late) for module in block.modules()]
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in later)


@pytest.mark.parametrize("body", ["transposed", "resize"])
@pytest.mark.parametrize(
    ("shape", "classes", "matrix", "side"),
    [
        ((1, 28, 28), 26, "square", 26),
        ((1, 28, 28), 100, "cross", 10),
        ((1, 28, 28), 1000, "cross", 32),
        ((3, 32, 32), 100, "cross", 10),
        ((3, 32, 32), 1000, "cross", 32),
        ((3, 224, 224), 200, "square", 200),
    ],
)
def test_a_matrix_comes_in_whole_and_no_later_map_is_smaller(shape, classes, matrix, side, body):
    network = made(shape, classes=classes, matrix=matrix, body=body)
    _, went_in, came_out = shown(network)
    assert went_in[len(network.early)].shape[-1] == side
    assert min(maps.shape[-1] for maps in came_out[len(network.early) :]) >= side
    sides(network)


def test_26_classes_make_a_picture_of_28_pixels_by_way_of_60():
    assert sides(made(classes=26, matrix="square")) == [1, 4, 7, 10, 27, 28, 56, 59, 60]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 28), (1, 29, 29), (3, 64, 64), (3, 65, 40), (3, 97, 97)])
@pytest.mark.parametrize("body", ["transposed", "resize"])
def test_any_other_picture_is_made_too(shape, body):
    images, _, _ = shown(made(shape, body=body))
    assert images.shape == (1, *shape)
    assert images.min() >= 0 and images.max() <= 1


def test_the_largest_picture_has_1024_pixels():
    with pytest.raises(SetupError, match=r"a picture of 1025 pixels\n  generators make up to 1024"):
        made((3, 1025, 7))


@pytest.mark.parametrize(
    ("classes", "size", "kind"), [(10, 28, "square"), (28, 28, "square"), (29, 28, "cross"), (10, 8, "cross")]
)
def test_left_to_itself_the_matrix_is_square_where_it_fits(classes, size, kind):
    assert made((1, size, size), classes=classes).matrix == kind


# ---- what comes in where -------------------------------------------------------------------------------------------


def test_the_label_joins_the_map_before_the_late_stages():
    for classes, cross in ((10, hot_matrix), (100, factored_cross)):
        network = made(classes=classes)
        _, went_in, came_out = shown(network, count=5)
        joined = went_in[len(network.early)]
        assert joined.shape[1] == came_out[len(network.early) - 1].shape[1] + 1
        assert torch.equal(joined[:, -1:], cross(torch.arange(5), classes))


def test_without_a_matrix_the_label_alone_changes_nothing():
    network = made(matrix="none")
    latents, vectors, labels = inputs(network, 3)
    with torch.no_grad():
        assert torch.equal(network(latents, vectors, labels), network(latents, vectors, labels + 1))
    assert network.late[0].convolution.in_channels == 4


@pytest.mark.parametrize(("condition", "channels"), [("soft", 200), ("one_hot", 200), ("label", 200), ("none", 100)])
def test_latent_and_condition_are_joined_at_1_by_1(condition, channels):
    network = made(condition=condition)
    _, went_in, _ = shown(network, count=2)
    assert went_in[0].shape == (2, channels, 1, 1)
    assert torch.equal(went_in[0][:, :100, 0, 0], inputs(network, 2)[0])


def test_the_vector_goes_through_a_linear_map():
    network = made(matrix="none")
    latents, vectors, labels = inputs(network, 2)
    with torch.no_grad():
        network(latents, vectors, labels)
        _, went_in, _ = shown(network, count=2)
    expected = vectors @ network.condition.weight.T + network.condition.bias
    torch.testing.assert_close(went_in[0][:, 100:, 0, 0], expected)


# ---- dropout -------------------------------------------------------------------------------------------------------


def test_dropout_takes_whole_channels_between_batch_norm_and_relu_and_spares_the_last_stage():
    network = made(dropout=(0.0, 0.5), matrix="none", width=2)
    kept = torch.rand(3, sum(network.dropped), generator=torch.Generator().manual_seed(2))
    _, whole_in, whole = shown(network, 3)
    _, dropped_in, dropped = shown(network, 3, kept)
    shares = kept.split(network.dropped, 1)
    for early in range(len(network.early)):
        assert torch.equal(whole[early], dropped[early]), "early stages have a rate of 0"
    for late, block in enumerate(network.late[:-1]):
        place = len(network.early) + late
        with torch.no_grad():
            normed = block.norm(block.convolution(dropped_in[place]))
        factor = 2.0 * (shares[place] >= 0.5)
        torch.testing.assert_close(dropped[place], (normed * factor[..., None, None]).relu())
    with torch.no_grad():
        torch.testing.assert_close(dropped[-1], network.late[-1].convolution(dropped_in[-1]))
    assert len(network.dropped) == len(whole_in) - 1


# ---- weights -------------------------------------------------------------------------------------------------------


def test_the_reference_body_has_5_72_million_parameters():
    """By hand: linear map, seven convolutions with batch norm, the last one with a bias."""
    by_hand = 10 * 100 + 100
    for fan_in, fan_out in ((200, 64), (64, 128), (128, 256), (257, 512), (512, 256), (256, 128), (128, 64)):
        by_hand += fan_in * fan_out * 16 + 2 * fan_out
    by_hand += 64 * 16 + 1
    found = sum(parameter.numel() for parameter in made(width=64).parameters())
    assert found == by_hand
    assert round(found / 1e6, 2) == 5.72


@pytest.mark.parametrize("body", ["transposed", "resize"])
def test_weights_start_as_group_codes_do_and_leave_the_global_generator_alone(body):
    before = torch.get_rng_state()
    network = made(width=8, body=body)
    assert torch.equal(torch.get_rng_state(), before)
    linear = network.condition.weight
    torch.testing.assert_close(linear.T @ linear, torch.eye(10), atol=1e-5, rtol=0)
    assert network.condition.bias.eq(0).all()
    for block in (*network.early, *network.late):
        kernels = block.convolution.weight
        assert kernels.std().item() == pytest.approx(0.02, rel=0.1)
        assert abs(kernels.mean().item()) < 0.005
        if block.norm is not None:
            assert block.norm.weight.eq(1).all() and block.norm.bias.eq(0).all()
            assert block.norm.running_mean.eq(0).all() and block.norm.running_var.eq(1).all()


def test_the_same_numbers_make_the_same_weights():
    one, other = made(), made()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
