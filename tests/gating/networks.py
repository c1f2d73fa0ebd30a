"""Small networks of every family that gates are put into, with gates that already differ from image to image."""

import torch
from torch import nn
from torchvision.models import ResNet, SqueezeNet
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import Bottleneck

from bench.gating import ControllingModule, FixedGate, SalienceGate, attach
from bench.zoo.architectures import Inception, Normalised, SmallInception, cnn, small_resnet
from bench.zoo.classifier import Classifier

SIDE, CLASSES = 16, 5
SHAPE = (3, SIDE, SIDE)


def head(width):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]


def convolved(fan_in, fan_out, norm=True):
    return [nn.Conv2d(fan_in, fan_out, 3, padding=1), *([nn.BatchNorm2d(fan_out)] if norm else []), nn.ReLU()]


def plain(norm=True):
    pooled = [nn.MaxPool2d(2), *convolved(8, 12, norm), nn.AvgPool2d(2), nn.Dropout(0.3), *convolved(12, 9, norm)]
    return nn.Sequential(*convolved(3, 6, norm), *convolved(6, 8, norm), *pooled, *head(9))


def odd():
    """Strides, dilation, padding that is not of zeros, and no bias."""
    convs = [
        nn.Conv2d(3, 8, 3, bias=False),
        nn.LeakyReLU(0.1),
        nn.Conv2d(8, 10, 3, padding=2, dilation=2, padding_mode="reflect"),
        nn.ReLU6(),
        nn.Conv2d(10, 7, (3, 1), stride=(2, 1), padding="valid", bias=False),
        nn.BatchNorm2d(7, affine=False),
        nn.Conv2d(7, 6, 3, padding="same", padding_mode="circular"),
    ]
    return nn.Sequential(*convs, *head(6))


def inception(late_relu=False):
    """Two modules with a pool between them; the stem is the first convolution."""
    module = Inception if late_relu else SmallInception
    parts = [*convolved(3, 8), module(8, 4, 4, 6, 4, 8, 4), nn.MaxPool2d(2), module(22, 4, 6, 4, 4, 6, 8)]
    return nn.Sequential(*parts, *head(22))


class Nested(nn.Module):
    """Joins of joins, with two parts that no gate masks: nobody can say where one of them ends."""

    def __init__(self):
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.known, self.unknown = nn.Conv2d(10, 5, 1), nn.Conv2d(14, 5, 1)
        self.last, self.linear = nn.Conv2d(10, 6, 3, padding=1), nn.Linear(6, CLASSES)

    def forward(self, images):
        stem = self.stem(images)
        side = torch.relu(self.side(stem))
        one = torch.cat([stem, side], 1)
        known, unknown = self.known(one), self.unknown(torch.cat([one, stem.abs()], 1))
        return self.linear(self.last(torch.cat((known, unknown), dim=1)).mean((2, 3)))


def squeezed():
    network = SqueezeNet("1_1", num_classes=CLASSES)
    network.features = network.features[:5]
    network.classifier = nn.Sequential(nn.Conv2d(128, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return network


FAMILIES = {
    "plain": plain,
    "plain without norm": lambda: plain(norm=False),
    "odd convolutions": odd,
    "cnn": lambda: cnn(SHAPE, CLASSES),
    "residual": lambda: small_resnet(SHAPE, CLASSES, widths=(6, 10), blocks=2, projection=False),
    "residual with projections": lambda: small_resnet(SHAPE, CLASSES, widths=(6, 10), blocks=2, projection=True),
    "bottleneck": lambda: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, width_per_group=8),
    "inception": inception,
    "inception with late ReLUs": lambda: inception(late_relu=True),
    "dense": lambda: DenseNet(6, (2, 2), 8, num_classes=CLASSES),
    "squeeze": squeezed,
    "nested joins": Nested,
    "normalised": lambda: Normalised(plain(), [0.5] * 3, [0.25] * 3),
}


class Moody(ControllingModule):
    """Has learned something: about half of its bits depend on the image."""

    def __init__(self, fan_in, fan_out):
        super().__init__(fan_in, fan_out, reduction=1)
        nn.init.normal_(self.reduce.weight, std=6)
        nn.init.normal_(self.expand.bias, std=0.3)


def moody(path, conv):
    return Moody(conv.in_channels, conv.out_channels)


def fixed(path, conv):
    return FixedGate(torch.rand(conv.out_channels) < 0.6)


def salient(path, conv):
    gate = SalienceGate(conv.in_channels, conv.out_channels, keep=0.5)
    with torch.no_grad():
        gate.predict.weight *= 0.1  # saliencies that multiply from layer to layer must stay finite
    return gate


def mixed(path, conv):
    """Fixed, moody and salient ones in turn."""
    return (fixed, moody, salient)[sum(map(ord, path)) % 3](path, conv)


class Off(ControllingModule):
    """Switches the whole layer off."""

    def scores(self, squeezed):
        return super().scores(squeezed) - 1e6


def partly_off(path, conv):
    """Every second layer, or so, is off as a whole."""
    return (Off if sum(map(ord, path)) % 2 else Moody)(conv.in_channels, conv.out_channels)


def all_off(path, conv):
    return FixedGate(torch.zeros(conv.out_channels))


GATES = {gate.__name__: gate for gate in (moody, fixed, salient, mixed, partly_off, all_off)}


def settled(family, seed=0):
    """An ungated network in eval mode; its norms have statistics and weights of their own."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = FAMILIES[family]()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.5)
    return network.eval()


def gated(family, make_gate=moody, seed=0):
    """(network, its gated layers), in eval mode."""
    network = settled(family, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        layers = attach(network, make_gate)
    return network, layers


def pictures(count, shape=SHAPE, seed=2):
    """(count, C, H, W), each with a colour of its own."""
    draw = torch.Generator().manual_seed(seed)
    channels = torch.randn(count, shape[0], 1, 1, generator=draw)
    return torch.randn(count, *shape, generator=draw) + 2 * channels


def classifier(network, shape=SHAPE):
    channels = shape[0]
    return Classifier(
        network,
        name="gated",
        image_shape=shape,
        num_classes=CLASSES,
        mean=[0.5] * channels,
        std=[0.25] * channels,
        taps={},
    )
