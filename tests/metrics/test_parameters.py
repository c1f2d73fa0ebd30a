from types import SimpleNamespace

import pytest
from torch import nn
from torchvision.models import resnet18

from metrics.parameters import parameters


def test_resnet18_has_its_known_number():
    assert parameters(target=SimpleNamespace(network=resnet18())).item() == pytest.approx(11.689512, abs=1e-12)


def test_a_shared_parameter_counts_once_and_a_buffer_not():
    linear = nn.Linear(10, 10)
    network = nn.Sequential(linear, nn.BatchNorm1d(10), linear)
    assert parameters(target=SimpleNamespace(network=network)).item() == pytest.approx((110 + 20) / 1e6)
