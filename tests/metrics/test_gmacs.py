from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet18

from metrics._cost import count_gmacs
from metrics.gmacs import gmacs

IMAGENET = (3, 224, 224)


def test_resnet18_has_its_known_value():
    assert count_gmacs(resnet18().eval(), IMAGENET) == pytest.approx(1.819065856, abs=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_deit_tiny_has_its_known_value_fused_or_not(fused):
    network = timm.create_model("deit_tiny_patch16_224").eval()
    for block in network.blocks:
        block.attn.fused_attn = fused
    assert count_gmacs(network, IMAGENET) == pytest.approx(1.2584112, abs=1e-12)


def test_a_convolution_and_a_linear_layer_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7))
    by_hand = 5 * 16 * 3 * 9 + 5 * 16 * 7
    found = gmacs(target=SimpleNamespace(network=network.eval(), image_shape=(3, 8, 8)))
    assert found.item() == pytest.approx(by_hand / 1e9, rel=1e-12)


class Attending(nn.Module):
    """Torch's own attention over the rows of an image, which runs as a single kernel when nobody looks."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, num_heads=4, batch_first=True)

    def forward(self, images):
        rows = images[:, 0]  # (B, 10, 16)
        return self.attention(rows, rows, rows, need_weights=False)[0]


def test_torchs_own_attention_is_counted_and_its_switch_left_alone():
    assert torch.backends.mha.get_fastpath_enabled()
    found = count_gmacs(Attending().eval().requires_grad_(False), (1, 10, 16))
    by_hand = 4 * 10 * 16 * 16 + 2 * 10 * 10 * 16  # four projections; Q Kᵀ and the sum of values, over four heads of 4
    assert found == pytest.approx(by_hand / 1e9, rel=1e-12)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_network_is_left_as_it_was(tiny_classifier):
    before = tiny_classifier.checksum()
    first, second = gmacs(target=tiny_classifier), gmacs(target=tiny_classifier)
    assert first == second > 0
    assert tiny_classifier.checksum() == before
    assert tiny_classifier.passes.total == 0
    assert not any(module._forward_hooks or module.training for module in tiny_classifier.modules())
