"""Small networks and real digits that tests of methods share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from bench import registry
from bench.contract import SetupError
from bench.zoo.classifier import Classifier

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plugin", action="append", default=[], help="a method or metric file to hold to the laws too")


def pytest_configure(config: pytest.Config) -> None:
    for path in config.getoption("--plugin"):
        try:
            registry.add_plugin(Path(path))
        except SetupError as error:
            raise pytest.UsageError(str(error)) from error


def _wrap(network: nn.Module, *, classes: int, shape: tuple[int, int, int], taps: dict[str, str]) -> Classifier:
    channels = shape[0]
    return Classifier(
        network,
        name="tiny",
        image_shape=shape,
        num_classes=classes,
        mean=[0.5] * channels,
        std=[0.5] * channels,
        taps=taps,
    )


def _convolutional(channels: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (side // 2) ** 2, 10),
    )


@pytest.fixture
def tiny_classifier() -> Classifier:
    """Random convolutional network with BatchNorm, 10 classes, (3, 8, 8) images, taps block1 and block2."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _convolutional(channels=3, side=8)
    return _wrap(network, classes=10, shape=(3, 8, 8), taps={"block1": "3", "block2": "6"})


@pytest.fixture
def linear_classifier() -> Callable[[Tensor], Classifier]:
    """Maker of a network whose logits are linear: ``weights`` (K, C, H, W) are their gradients by the image."""

    def make(weights: Tensor) -> Classifier:
        classes, *shape = weights.shape
        linear = nn.Linear(weights[0].numel(), classes, bias=False)
        with torch.no_grad():
            linear.weight.copy_(weights.flatten(1) / 2)  # the wrapper takes images to (x − 0.5) / 0.5
        return _wrap(nn.Sequential(nn.Flatten(), linear), classes=classes, shape=tuple(shape), taps={})

    return make


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """(1797, 1, 8, 8) float32 real handwritten digits in [0, 1] and their (1797,) labels, from scikit-learn."""
    bunch = load_digits()
    return torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None], torch.tensor(bunch.target)


@pytest.fixture(scope="session")
def _trained_network(digits: tuple[Tensor, Tensor]) -> nn.Sequential:
    images, labels = (part[:1200] for part in digits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _convolutional(channels=1, side=8)
        optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(6):
            for chosen in torch.randperm(len(images)).split(100):
                loss = F.cross_entropy(network(2 * images[chosen] - 1), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return network


@pytest.fixture
def digits_classifier(_trained_network: nn.Sequential) -> Classifier:
    """The convolutional network trained on the first 1200 digits, about 95 % right on the others."""
    return _wrap(_trained_network, classes=10, shape=(1, 8, 8), taps={"block1": "3", "block2": "6"})
