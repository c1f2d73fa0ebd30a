"""Where one can look inside a network: the rule of each family."""

import pytest
import torch
from torch import nn
from torchvision import models

from bench.zoo.networks import untrained
from bench.zoo.taps import taps_of


def of(name: str, size: int = 224) -> dict[str, str]:
    with torch.device("meta"):
        network = untrained(name, num_classes=1000, image_shape=(3, size, size), mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    return taps_of(network.inner)


@pytest.mark.parametrize(
    ("name", "stem"), [("resnet18.tv_in1k", "act1"), ("resnet50.IMAGENET1K_V1", "relu"), ("resnet18", "act1")]
)
def test_resnets_have_their_stem_and_four_stages(name, stem):
    assert of(name) == {"stem": stem, "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"}


@pytest.mark.parametrize(
    ("name", "size", "blocks"),
    [
        ("deit_pico", 32, [2, 3, 5, 6]),
        ("deit_tiny", 28, [3, 6, 9, 12]),
        ("deit_tiny_patch16_224.fb_in1k", 224, [3, 6, 9, 12]),
        ("vit_large_patch16_224.augreg_in21k_ft_in1k", 224, [6, 12, 18, 24]),
    ],
)
def test_transformers_have_their_patches_and_the_block_that_ends_each_quarter(name, size, blocks):
    assert of(name, size) == {"stem": "patch_embed"} | {f"block{count}": f"blocks.{count - 1}" for count in blocks}


def test_torchvision_transformer_has_the_same_taps_as_timms():
    assert list(of("vit_l_32.IMAGENET1K_V1")) == ["stem", "block6", "block12", "block18", "block24"]


def test_vgg_stages_end_at_the_usual_relus_before_each_pool():
    relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 = (f"features.{place}" for place in (3, 8, 15, 22, 29))
    assert list(taps_of(models.vgg16(weights=None)).values()) == [relu1_2, relu2_2, relu3_3, relu4_3, relu5_3]


def test_squeezenet_stages_end_before_each_pool_and_at_the_last_fire_module():
    paths = list(taps_of(models.squeezenet1_1(weights=None)).values())
    assert paths == ["features.1", "features.4", "features.7", "features.12"]


def test_batch_norm_that_is_changed_in_place_is_no_tap():
    assert taps_of(models.densenet121(weights=None))["stage5"] == "features.denseblock4"


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224.ms_in1k", "swin_t.IMAGENET1K_V1"])
def test_networks_whose_channels_come_last_have_no_inner_taps(name):
    assert of(name) == {}


def test_network_that_no_rule_knows_has_no_inner_taps():
    assert taps_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == {}


@pytest.mark.parametrize(
    "name", ["densenet121.ra_in1k", "convnext_base.fb_in1k", "efficientnet_b0.IMAGENET1K_V1", "regnety_002.pycls_in1k"]
)
def test_stages_are_maps_that_shrink_from_shallow_to_deep(name):
    with torch.device("meta"):
        network = untrained(name, num_classes=10, image_shape=(3, 64, 64), mean=[0] * 3, std=[1] * 3, seed=0).eval()
        sizes = []
        for path in taps_of(network.inner).values():
            network.inner.get_submodule(path).register_forward_hook(lambda module, args, out: sizes.append(out.shape))
        network(torch.rand(2, 3, 64, 64))
    heights = [height for _, _, height, _ in sizes]
    assert len(heights) >= 4
    assert heights == sorted(heights, reverse=True)
