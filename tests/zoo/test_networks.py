"""The networks by name: what they are, that they are what they say, and how they become subjects."""

import random
import subprocess
import sys
from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import SetupError
from bench.zoo import networks
from bench.zoo.architectures import (
    Inception,
    Normalised,
    PaddedShortcut,
    PostNormBlock,
    SmallInception,
    mobilenet_v2_tensorflow,
    without_batch_norm,
)
from bench.zoo.classifier import Classifier
from bench.zoo.networks import network_card, network_names, tagged_names, untrained, wrap

GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def built(name: str, image_shape: tuple[int, int, int] = COLOUR, *, num_classes: int = 10, seed: int = 0) -> Normalised:
    channels = image_shape[0]
    return untrained(
        name,
        num_classes=num_classes,
        image_shape=image_shape,
        mean=[0.4] * channels,
        std=[0.2] * channels,
        seed=seed,
    )


def subject(name: str, image_shape: tuple[int, int, int]) -> Classifier:
    return wrap(built(name, image_shape), name=name, num_classes=10, image_shape=image_shape)


def drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---- names ---------------------------------------------------------------------------------------------------------


def test_names_and_their_errors_are_told_without_loading_torch():
    program = (
        "import sys\n"
        "from bench.contract import SetupError\n"
        "from bench.zoo.networks import network_card, network_names\n"
        "from bench.zoo.weights import public_card, public_names\n"
        "[network_card(name) for name in network_names()], [public_card(name) for name in public_names()]\n"
        "for card in (network_card, public_card):\n"
        "    for name in ('resnet50', 'resnet2O', 'resnet20.akamastr'):\n"
        "        try: card(name)\n"
        "        except SetupError: pass\n"
        "        else: print(name, 'was accepted')\n"
        "print(*{'torch', 'timm', 'torchvision', 'PIL', 'pandas'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_mistyped_name_is_told_with_the_nearest():
    with pytest.raises(SetupError, match=r"no network named 'deit_pcio'\. Did you mean 'deit_pico'"):
        network_card("deit_pcio")


def test_name_without_its_tag_is_told_with_the_tags():
    with pytest.raises(SetupError, match=r"does not say which weights.*\n.*resnet50\.IMAGENET1K_V1.*resnet50\.tv_in1k"):
        network_card("resnet50")


@pytest.mark.parametrize(
    "name", ["", "../cnn", "cnn/../mlp", "<b>cnn</b>", "cnn.", "resnet50.tv_in1k/..", "hf-hub:a/b"]
)
def test_name_that_is_no_name_is_refused(name):
    with pytest.raises(SetupError, match="no network named"):
        network_card(name)


def test_every_network_says_what_it_is():
    cards = [network_card(name) for name in network_names()]
    assert all(card.description and card.family for card in cards)
    assert {card.name for card in cards} == set(network_names())


def test_the_small_referee_is_of_another_family_than_the_small_subjects():
    assert network_card("resnet_mini").family not in {network_card(name).family for name in ("mlp", "cnn", "deit_pico")}


def test_a_marked_function_is_a_network(monkeypatch):
    monkeypatch.setattr(networks, "_CARDS", dict(networks._CARDS))

    @networks.network(family="linear", min_size=1)
    def mine(image_shape, num_classes):
        """One linear layer.

        And nothing else.
        """
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(image_shape), num_classes))

    assert network_card("mine").description == "One linear layer."
    assert subject("mine", GREY)(drawn(2, *GREY)).shape == (2, 10)
    with pytest.raises(SetupError, match="there is a network named 'mine' already"):
        networks.network(family="linear", min_size=1)(mine)


def test_every_timm_network_for_imagenet_is_known_by_its_tag():
    import timm

    names = [name for name in timm.list_pretrained() if timm.get_pretrained_cfg(name).num_classes == 1000]
    assert len(names) > 1000
    assert set(names) <= tagged_names()


def test_every_torchvision_network_is_known_by_its_tag():
    from torchvision import models

    names = {
        f"{name}.{weights.name}"
        for name in models.list_models(module=models)
        for weights in models.get_model_weights(name)
        if weights.name.startswith("IMAGENET1K")
    }
    assert names == {name for name in tagged_names() if ".IMAGENET1K" in name}


# ---- what is built -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        pytest.param(name, shape, id=f"{name}-{shape[1]}px")
        for name in network_names()
        for shape in (GREY, COLOUR)
        if network_card(name).min_size <= shape[1]
    ],
)
def test_every_network_becomes_a_subject_with_taps(name, image_shape):
    made = subject(name, image_shape)
    seen = made.observe(drawn(2, *image_shape), made.taps)
    assert seen.logits.shape == (2, 10)
    assert seen.logits.isfinite().all()
    assert len(made.taps) >= 3
    assert seen.features["penultimate"].ndim == 2
    for tap in made.taps:
        assert torch.equal(made.features(drawn(2, *image_shape), tap), seen.features[tap])


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20", 0.27),  # He et al. 2016, table 6
        ("resnet32", 0.46),
        ("resnet44", 0.66),
        ("resnet56", 0.85),
        ("resnet18", 11.17),  # He et al. 2016, table 1, less the 7x7 stem and for ten classes
        ("deit_tiny", 5.36),  # Touvron et al. 2021, table 1, less the head and patches for 224 pixels
        ("vgg16_bn", 14.73),
    ],
)
def test_networks_have_the_published_number_of_parameters(name, millions):
    assert parameters(built(name)) == pytest.approx(millions * 1e6, abs=0.005e6)


@pytest.mark.parametrize(
    ("name", "convolutions", "filters", "kernels", "multiply_adds"),
    [  # path bits are filters without the stem's: 5440 and 7712 [derived, spec of decoupling, table 2.4]
        ("vgg19_bn", 16, 5440 + 64, 20.0e6, 398.1e6),
        ("googlenet_small", 1 + 9 * 7, 7712 + 192, 6.13e6, 1522e6),
    ],
)
def test_networks_of_the_decoupling_specification_have_its_sizes(name, convolutions, filters, kernels, multiply_adds):
    network, spent = built(name).eval(), []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, _, out: spent.append(layer.weight.numel() * out[0, 0].numel()))
    network(drawn(1, *COLOUR))
    assert (len(layers), sum(layer.out_channels for layer in layers)) == (convolutions, filters)
    assert sum(layer.weight.numel() for layer in layers) == pytest.approx(kernels, rel=1e-3)
    assert sum(spent) + parameters(network.inner.head) == pytest.approx(multiply_adds, rel=2e-4)


def test_the_small_googlenet_has_the_output_widths_of_the_large_one():
    network = subject("googlenet_small", COLOUR)
    widths = {"inc3a": 256, "inc3b": 480, "inc4a": 512, "inc4b": 512, "inc4c": 512, "inc4d": 528, "inc4e": 832}
    sizes = {"inc3": 32, "inc4": 16, "inc5": 8}
    widths |= {"inc5a": 832, "inc5b": 1024}  # Szegedy et al. 2015, table 1
    seen = network.observe(drawn(1, *COLOUR), tuple(widths)).features
    for tap, width in widths.items():
        assert seen[tap].shape == (1, width, sizes[tap[:4]], sizes[tap[:4]])


def test_the_small_googlenets_branches_are_joined_and_their_last_is_pooled_first():
    module = SmallInception(3, 1, 2, 4, 2, 5, 6).eval()
    features = drawn(2, 3, 6, 6)
    pooled = module.pooled[1](F.max_pool2d(features, 3, 1, padding=1))
    branches = [module.one(features), module.three(features), module.five(features), pooled]
    torch.testing.assert_close(module(features), torch.cat(branches, 1))
    assert [branch.shape[1] for branch in branches] == [1, 4, 5, 6]
    assert all((branch >= 0).all() for branch in branches)


def test_mlp_and_cnn_have_the_layers_of_the_specification():
    linear = [(784, 512), (512, 256), (256, 10)]
    assert parameters(built("mlp", GREY)) == sum(a * b + b for a, b in linear) + 2 * (512 + 256)
    convolutions, linear = [(1, 32), (32, 64), (64, 128)], [(128 * 3 * 3, 256), (256, 10)]
    expected = sum(9 * a * b + b for a, b in convolutions) + sum(a * b + b for a, b in linear)
    assert parameters(built("cnn", GREY)) == expected + 2 * (32 + 64 + 128 + 256)


def test_small_networks_are_small():
    assert 80_000 <= parameters(built("resnet_mini", GREY)) <= 200_000
    width, depth, tokens = 96, 6, 49 + 1
    block = 4 * width * (width + 1) + 2 * 4 * width * width + 5 * width + 2 * 2 * width
    patches, head = 16 * width + width, 2 * width + width * 10 + 10
    assert parameters(built("deit_pico", GREY)) == depth * block + patches + tokens * width + width + head


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [  # the counts that torchvision and the papers give
        ("resnet18.tv_in1k", 224, 11_689_512),
        ("resnet50.IMAGENET1K_V2", 224, 25_557_032),
        ("deit_tiny_patch16_224.fb_in1k", 224, 5_717_416),
        ("deit_small_patch16_224.fb_in1k", 224, 22_050_664),
        ("densenet121.tv_in1k", 224, 7_978_856),
        ("convnext_base.fb_in1k", 224, 88_591_464),
        ("vit_large_patch16_224.augreg_in21k_ft_in1k", 224, 304_326_632),
        ("vit_l_32.IMAGENET1K_V1", 224, 306_535_400),
    ],
)
def test_imagenet_networks_build_by_their_tag(name, size, count):
    with torch.device("meta"):  # shapes without memory
        network = built(name, (3, size, size), num_classes=1000).eval()
        assert network(torch.rand(2, 3, size, size)).shape == (2, 1000)
    assert parameters(network) == count


@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "resnet18.IMAGENET1K_V1", "deit_tiny_patch16_224.fb_in1k"])
def test_imagenet_networks_become_subjects_for_small_images_too(name):
    made = subject(name, (3, 64, 64))
    assert made(drawn(2, 3, 64, 64)).shape == (2, 10)
    assert {"stem", "penultimate"} < set(made.taps)


# ---- what is asked of images ---------------------------------------------------------------------------------------


def test_images_that_are_too_small_are_told():
    with pytest.raises(SetupError, match="vgg16_bn takes images of at least 32 x 32 pixels, got 28 x 28\n"):
        built("vgg16_bn", GREY)


def test_images_that_patches_do_not_cover_are_told():
    with pytest.raises(SetupError, match="multiples of 4 pixels, got 30 x 28"):
        built("deit_pico", (1, 30, 28))


def test_normalisation_for_other_channels_is_told():
    with pytest.raises(SetupError, match="cnn: mean and std have 3 and 1 numbers for 1 channels"):
        untrained("cnn", num_classes=10, image_shape=GREY, mean=(0.1, 0.1, 0.1), std=(0.3,), seed=0)


def test_torchvision_networks_need_three_channels():
    with pytest.raises(SetupError, match="takes images of 3 channels, got 1"):
        built("resnet18.IMAGENET1K_V1", (1, 64, 64))


# ---- chance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "deit_pico", "resnet18.tv_in1k"])
def test_first_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    first = built(name, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = built(name, seed=3).state_dict(), built(name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_global_generators_are_left_as_they_were():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    for name in ("cnn", "resnet_mini", "deit_pico", "resnet18.tv_in1k"):
        built(name)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


# ---- parts ---------------------------------------------------------------------------------------------------------


def test_normalisation_is_inside():
    network = Normalised(nn.Identity(), mean=(0.1, 0.2), std=(0.5, 0.25))
    images = drawn(2, 2, 3, 3)
    by_hand = torch.stack([(images[:, 0] - 0.1) / 0.5, (images[:, 1] - 0.2) / 0.25], 1)
    torch.testing.assert_close(network(images), by_hand)


def test_wrap_hands_on_normalisation_and_logits():
    network = built("cnn").eval()
    expected = network(drawn(8, *COLOUR)).detach()
    made = wrap(network, name="cnn.x", num_classes=10, image_shape=COLOUR)
    torch.testing.assert_close(made(drawn(8, *COLOUR)), expected)
    assert (made.name, made.num_classes, made.image_shape) == ("cnn.x", 10, COLOUR)


def test_what_is_tapped_is_not_changed_by_the_layers_behind():
    block = nn.Sequential(nn.Conv2d(3, 4, 1))
    inner = nn.Sequential()
    inner.add_module("block1", block)
    inner.add_module("relu", nn.ReLU(inplace=True))
    inner.add_module("flatten", nn.Flatten())
    inner.add_module("head", nn.Linear(64, 10))
    made = wrap(Normalised(inner, [0.5] * 3, [0.5] * 3), name="x", num_classes=10, image_shape=(3, 4, 4))
    tapped = made.observe(drawn(2, 3, 4, 4), ("block1",)).features["block1"]
    assert (tapped < 0).any()


def test_padded_shortcut_takes_every_second_pixel_between_channels_of_zeros():
    features = drawn(2, 4, 5, 6)
    out = PaddedShortcut(extra=4, stride=2)(features)
    assert out.shape == (2, 8, 3, 3)
    for channel in range(8):
        for row in range(3):
            for column in range(3):
                inside = 2 <= channel < 6
                wanted = features[:, channel - 2, 2 * row, 2 * column] if inside else torch.zeros(2)
                assert torch.equal(out[:, channel, row, column], wanted)


def test_post_norm_block_is_torchs_encoder_layer():
    reference = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    block = PostNormBlock(16, 4, mlp_ratio=2.0, norm_layer=nn.LayerNorm)
    for own, theirs in (
        (block.attn.qkv, reference.self_attn),
        (block.attn.proj, reference.self_attn.out_proj),
        (block.mlp.fc1, reference.linear1),
        (block.mlp.fc2, reference.linear2),
    ):
        attention = own is block.attn.qkv
        own.weight.data = theirs.in_proj_weight.data if attention else theirs.weight.data
        bias = theirs.in_proj_bias if attention else theirs.bias
        own.bias.data = torch.linspace(-1, 1, len(bias))
        bias.data = own.bias.data
    tokens = drawn(2, 5, 16)
    torch.testing.assert_close(block(tokens), reference(tokens), rtol=1e-5, atol=1e-6)


def test_inception_joins_its_four_branches():
    module = Inception(3, 1, 2, 4, 2, 5, 6)
    features = drawn(2, 3, 6, 6)
    one = F.relu(module.b1(features))
    three = F.relu(module.b3(F.relu(module.b3r(features))))
    five = F.relu(module.b5(F.relu(module.b5r(features))))
    pooled = F.relu(module.pp(F.max_pool2d(features, 3, 1, padding=1)))
    torch.testing.assert_close(module(features), torch.cat([one, three, five, pooled], 1))


def test_tensorflow_padding_goes_right_and_below():
    network = mobilenet_v2_tensorflow()
    first = network.features[0][0]
    images = drawn(1, 3, 8, 8)
    torch.testing.assert_close(first(images), F.conv2d(F.pad(images, (0, 1, 0, 1)), first.weight, stride=2))
    strided = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
    assert {type(module).__name__ for module in strided} == {"Conv2dSame"}
    assert len(strided) == 5


def test_batch_norm_moved_into_convolutions_changes_nothing_else():
    inner = built("resnet_mini").inner.eval()
    generator = torch.Generator().manual_seed(0)
    for module in inner.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    expected = inner(drawn(2, *COLOUR))
    without = without_batch_norm(inner)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in without.modules())
    torch.testing.assert_close(without(drawn(2, *COLOUR)), expected, rtol=1e-4, atol=1e-4)
