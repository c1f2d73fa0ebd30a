"""The dense networks beside a gated one compute what it computes with all gates on."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from bench.contract import Unsupported
from bench.gating import ControllingModule, GatedLayer, attach, edited, gated_layers
from bench.gating.plain import dense_copy, folded_copy
from bench.zoo.architectures import small_resnet


def plain(norm=True):
    def stage(fan_in, fan_out):
        return [nn.Conv2d(fan_in, fan_out, 3, padding=1), *([nn.BatchNorm2d(fan_out)] if norm else []), nn.ReLU()]

    convs = [*stage(3, 6), *stage(6, 8), nn.MaxPool2d(2), *stage(8, 5)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))


class Joined(nn.Module):
    """A norm that two convolutions share, and a convolution that two layers read: neither can be folded."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.own = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.deep, self.deep_norm = nn.Conv2d(6, 7, 3, padding=1), nn.BatchNorm2d(7)

    def forward(self, images):
        inside = self.norm(self.stem(images))
        raw = self.twice(inside)
        inside = self.norm(raw) + self.own(raw)
        return F.relu(self.deep_norm(self.deep(inside)))


BUILDS = {
    "plain": plain,
    "without norm": lambda: plain(norm=False),
    "residual": lambda: small_resnet((3, 16, 16), 4, widths=(6, 8), blocks=2, projection=True),
    "padded": lambda: small_resnet((3, 16, 16), 4, widths=(6, 8), blocks=2, projection=False),
    "resnet18": resnet18,
}


def settled(network):
    """Norms with statistics and weights of their own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()


@pytest.fixture(params=BUILDS)
def world(request):
    """(network before gates, the same with gates, images)."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        ungated, images = settled(BUILDS[request.param]()), torch.randn(2, 3, 32, 32)
        network = dense_copy(ungated)
        attach(network, lambda path, conv: ControllingModule(conv.in_channels, conv.out_channels))
        yield ungated, network.eval(), images


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dense_is_the_network_before_gates_bit_for_bit_and_all_gates_on(world):
    ungated, network, images = world
    dense = dense_copy(network)
    assert torch.equal(dense(images), ungated(images))
    with edited(network, dict.fromkeys(gated_layers(network), torch.ones_like)):
        assert torch.equal(dense(images), network(images))


def test_folded_is_the_same_without_batch_norm(world):
    ungated, network, images = world
    folded = folded_copy(network)
    close(folded(images), ungated(images))
    assert not any(isinstance(module, nn.BatchNorm2d | GatedLayer) for module in folded.modules())


def test_copies_share_nothing_with_the_network(world):
    _, network, images = world
    before = network(images)
    for copied in (dense_copy(network), folded_copy(network)):
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(network(images), before)


def test_gates_change_what_the_network_says(world):
    ungated, network, images = world
    assert not torch.allclose(network(images), ungated(images))


@torch.no_grad()
def test_only_a_norm_that_alone_reads_a_convolution_is_folded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, images = settled(Joined()), torch.randn(2, 3, 8, 8)
    folded = folded_copy(network)
    close(folded(images), network(images))
    left = {path for path, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert left == {"norm", "own"}


class Choosy(nn.Module):
    """Looks at a number on its way."""

    def forward(self, images):
        return images if images.sum() > 0 else -images


def test_what_cannot_be_traced_is_unsupported():
    with pytest.raises(Unsupported, match="cannot be traced"):
        folded_copy(Choosy())
