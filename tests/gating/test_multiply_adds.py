"""Multiply-adds against the tables of the method's description [derived], fvcore, and the convolutions really run."""

import random
import warnings
from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18, vgg16

from bench.gating import (
    ControllingModule,
    FixedGate,
    SalienceGate,
    attach,
    gated_layers,
    multiply_adds,
    skipping,
    watched,
)
from bench.zoo.architectures import small_resnet

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis

SMALL, LARGE = (3, 32, 32), (3, 224, 224)


def convolved(fan_in, fan_out, side):
    return nn.Sequential(nn.Conv2d(fan_in, fan_out, side, padding=side // 2), nn.BatchNorm2d(fan_out), nn.ReLU())


def vgg19():
    """Sixteen convolutions in five stages, a pool after each of the first four."""
    parts, fan_in = [], 3
    for place, widths in enumerate([(64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4]):
        parts += [nn.MaxPool2d(2)] if place else []
        for width in widths:
            parts += [*convolved(fan_in, width, 3)]
            fan_in = width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, 10))


class Module(nn.Module):
    """Four branches: 1×1; 1×1 and 3×3; 1×1 and two 3×3; a pool and 1×1."""

    def __init__(self, fan_in, one, three_in, three, five_in, five, pooled):
        super().__init__()
        self.one = convolved(fan_in, one, 1)
        self.three = nn.Sequential(convolved(fan_in, three_in, 1), convolved(three_in, three, 3))
        self.five = nn.Sequential(convolved(fan_in, five_in, 1), convolved(five_in, five, 3), convolved(five, five, 3))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), convolved(fan_in, pooled, 1))

    def forward(self, features):
        return torch.cat([self.one(features), self.three(features), self.five(features), self.pooled(features)], 1)


MODULES = [  # Szegedy et al. 2015, table 1; None is a pool
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
]


def googlenet():
    parts, fan_in = [convolved(3, 192, 3)], 192
    for widths in MODULES:
        parts.append(Module(fan_in, *widths) if widths else nn.MaxPool2d(3, 2, 1))
        fan_in = widths[0] + widths[2] + widths[4] + widths[5] if widths else fan_in
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, 10))


def cifar_resnet(blocks):
    return small_resnet(SMALL, 10, widths=(16, 32, 64), blocks=blocks, projection=False)


NETWORKS = {
    "resnet20": (partial(cifar_resnet, 3), SMALL),
    "resnet56": (partial(cifar_resnet, 9), SMALL),
    "vgg19": (vgg19, SMALL),
    "googlenet": (googlenet, SMALL),
    "resnet18": (resnet18, LARGE),
    "vgg16": (vgg16, LARGE),
}


def controlled(path, conv):
    return ControllingModule(conv.in_channels, conv.out_channels)


@cache
def gated(name):
    """(layers, count) of a gated network of that name."""
    build, shape = NETWORKS[name]
    with torch.device("meta") if name == "vgg16" else torch.device("cpu"):  # its linear layers alone weigh 500 MB
        network = build().eval()
        layers = attach(network, controlled)
        return layers, multiply_adds(network, shape)


def uniform(layers, share):
    """That share of each layer's filters is on; the count is then the one expected of independent layers."""
    return {path: torch.full((1, layer.conv.out_channels), share).double() for path, layer in layers.items()}


@pytest.mark.parametrize(
    ("name", "modules", "bits", "dense", "of_modules", "parameters"),
    [
        ("resnet20", 18, 672, 40_551_040, 14_528, 15_356),
        ("resnet56", 54, 2016, 125_485_696, 46_784, 49_292),
        ("vgg19", 15, 5440, 398_136_320, 1_090_560, 1_097_248),
        ("googlenet", 63, 7712, 1_521_756_160, 3_517_728, 3_530_652),
        ("resnet18", 19, 4736, 1_814_073_344, 653_312, 659_008),
        ("vgg16", 12, 4160, 15_470_264_320, 795_648, 800_736),
    ],
)
def test_sizes_of_gated_networks_are_those_of_the_table(name, modules, bits, dense, of_modules, parameters):
    layers, count = gated(name)
    assert len(layers) == modules
    assert sum(layer.conv.out_channels for layer in layers.values()) == bits
    assert (count.dense, count.modules) == (dense, of_modules)
    assert sum(part.numel() for layer in layers.values() for part in layer.gate.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "share", "both", "outputs"),
    [
        ("resnet18", 0.6, 49.6, 37.4),
        ("vgg16", 0.5, 71.0, 49.3),
        ("resnet56", 0.8, 28.0, 19.9),
        ("resnet56", 0.7, 40.5, 29.9),
        ("resnet56", 0.6, 52.0, 39.8),
        ("resnet56", 0.5, 62.5, 49.8),
        ("resnet20", 0.8, 28.1, 19.7),
        ("resnet20", 0.6, 52.1, 39.5),
        ("resnet20", 0.5, 62.5, 49.4),
        ("vgg19", 0.8, 34.0, 19.6),
        ("vgg19", 0.6, 61.2, 39.5),
        ("vgg19", 0.5, 72.0, 49.5),
        ("googlenet", 0.8, 35.2, 19.7),
        ("googlenet", 0.6, 62.9, 39.6),
        ("googlenet", 0.5, 73.8, 49.6),
    ],
)
def test_cuts_at_a_uniform_share_are_those_of_the_table(name, share, both, outputs):
    layers, count = gated(name)
    for inputs, percent in ((True, both), (False, outputs)):
        executed = count.executed(uniform(layers, share), inputs=inputs)
        assert 100 * (1 - executed.item() / count.dense) == pytest.approx(percent, abs=0.1)


@pytest.mark.parametrize("name", ["resnet20", "googlenet", "resnet18"])
def test_the_dense_count_is_fvcores_of_convolutions_and_linear_layers(name):
    build, shape = NETWORKS[name]
    counter = FlopCountAnalysis(build().eval(), torch.zeros(1, *shape))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    found = counter.by_operator()
    assert gated(name)[1].dense == found["conv"] + found["linear"]


def test_all_on_costs_the_dense_network_and_its_modules():
    layers, count = gated("resnet20")
    assert count.executed(uniform(layers, 1.0)).item() == count.dense + count.modules


def test_all_off_leaves_the_stem_the_head_and_the_modules():
    layers, count = gated("resnet20")
    by_hand = 3 * 16 * 9 * 32 * 32 + 64 * 10 + count.modules
    assert count.executed(uniform(layers, 0.0)).item() == by_hand


def test_gates_cost_what_fvcore_counts_in_them():
    for gate in (ControllingModule(7, 20), SalienceGate(7, 20, keep=0.5), FixedGate(torch.ones(20))):
        counter = FlopCountAnalysis(Scores(gate), torch.ones(1, 7))
        counter.unsupported_ops_warnings(False).tracer_warnings("none")
        assert gate.multiply_adds == counter.total()


class Scores(nn.Module):
    """A gate's scores as a forward function."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def forward(self, squeezed):
        return self.gate.scores(squeezed)


# ---- what skip mode really runs ------------------------------------------------------------------------------------


def small_plain():
    return nn.Sequential(*convolved(3, 8, 3), *convolved(8, 12, 3), nn.MaxPool2d(2), *convolved(12, 6, 1))


def small_inception():
    parts = [convolved(3, 8, 3), Module(8, 4, 4, 6, 4, 8, 4), nn.MaxPool2d(2), Module(22, 4, 6, 4, 4, 6, 8)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(22, 10))


def small_residual(projection):
    return small_resnet(SMALL, 10, widths=(8, 12), blocks=2, projection=projection)


def moody(path, conv):
    """A controlling module that has already learned something: bits differ from image to image."""
    gate = controlled(path, conv)
    nn.init.normal_(gate.reduce.weight, std=3)
    nn.init.zeros_(gate.expand.bias)
    return gate


def bits_and_work(network, images, monkeypatch):
    """Bits of each layer as masking has them, and multiply-adds of all convolutions that skipping runs."""
    work, real = 0, F.conv2d

    def counting(features, weight, *rest, **named):
        nonlocal work
        out = real(features, weight, *rest, **named)
        work += 0 if out.is_meta else out.numel() * weight[0].numel()
        return out

    with torch.no_grad():
        with watched(network) as seen:
            network(images)
        monkeypatch.setattr(F, "conv2d", counting)
        with skipping(network):
            network(images)
    monkeypatch.undo()
    return {path: shown.gates.bool() for path, shown in seen.items()}, work


@pytest.mark.parametrize("images", [1, 7])
@pytest.mark.parametrize(
    "build", [small_plain, small_inception, partial(small_residual, False), partial(small_residual, True)]
)
@torch.no_grad()
def test_skipping_runs_as_many_multiply_adds_as_are_counted(build, images, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build()
        attach(network, moody)
        pictures = torch.randn(images, 3, 20, 20) + 2 * torch.randn(images, 3, 1, 1)
    for layer in gated_layers(network).values():
        layer.gate.expand.bias[0] = 99.0  # of a layer without any filter on, one channel of zeros would be read
    bits, work = bits_and_work(network.eval(), pictures, monkeypatch)
    count = multiply_adds(network, (3, 20, 20))
    head = sum(module.weight.numel() for module in network if isinstance(module, nn.Linear))
    executed = count.executed(bits)
    assert executed.sum().item() == work + images * (count.modules + head)
    assert executed.max() < count.dense, "or nothing was skipped"
    assert images == 1 or len(executed.unique()) > 1, "or all took one path"


def test_an_image_costs_the_same_alone_and_among_others():
    layers, count = gated("googlenet")
    draw = random.Random(0)
    several = {
        path: torch.tensor([[draw.random() < 0.6 for _ in range(layer.conv.out_channels)] for _ in range(3)])
        for path, layer in layers.items()
    }
    alone = [count.executed({path: bits[n : n + 1] for path, bits in several.items()}).item() for n in range(3)]
    assert count.executed(several).tolist() == alone
    assert len(set(alone)) == 3


def test_a_network_without_gates_has_a_dense_count_alone():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7))
    count = multiply_adds(network, (3, 8, 8))
    assert (count.dense, count.modules, dict(count.kernels)) == (5 * 16 * 3 * 9 + 5 * 16 * 7, 0, {})
