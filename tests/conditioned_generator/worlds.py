"""Small subjects and cells that these tests share."""

from typing import Any

import torch
from torch import Tensor, nn

from bench.conditioned_generator import Additions, Recipe, Trained, train_generator
from bench.contract import InversionTask, PassCounter
from bench.zoo.classifier import Classifier

SHAPE = (1, 8, 8)
PROBE = 8  # passes that look at the subject before the first step
SMALL: dict[str, Any] = {"width": 2, "latent": 8, "batch_size": 20}


def wrapped(
    network: nn.Module,
    classes: int = 10,
    shape: tuple[int, int, int] = SHAPE,
    mean: float = 0.3,  # not 0.5: a grey image would have features without length
    std: float = 0.5,
    taps: dict[str, str] | None = None,
) -> Classifier:
    channels = shape[0]
    return Classifier(
        network,
        name="tiny",
        image_shape=shape,
        num_classes=classes,
        mean=[mean] * channels,
        std=[std] * channels,
        taps=taps or {},
    )


def linear_map(inputs: int, outputs: int, seed: int = 0) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)))
        linear.bias.zero_()
    return linear


def linear_subject(seed: int = 0, classes: int = 10, **changes: Any) -> Classifier:
    """Logits are a random linear map of the 8 × 8 pixels, which are its penultimate features too."""
    return wrapped(nn.Sequential(nn.Flatten(), linear_map(64, classes, seed)), classes, **changes)


def cell(model: Classifier, count: int = 20, budget: int = 40, seed: int = 0, labels: Any = None) -> InversionTask:
    """A cell of ``count`` images whose counter stops at its budget; all classes in turn unless ``labels`` are given."""
    model.passes = PassCounter(limit=budget * count)
    labels = torch.arange(count) % model.num_classes if labels is None else torch.tensor(labels).repeat(count)[:count]
    return InversionTask(model=model, places=torch.arange(count), seed=seed, budget=budget, labels=labels)


def trained(task: InversionTask, additions: Additions | None = None, **settings: Any) -> Trained:
    return train_generator(task, Recipe(**SMALL | settings), task.labels, additions)


def one_of(task: InversionTask, image: int) -> InversionTask:
    return task.replace(places=task.places[image : image + 1], labels=task.labels[image : image + 1])


class Watch:
    """Additions that note what each step showed and change nothing."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.features: list[Tensor] = []

    def additions(self) -> Additions:
        def terms(images: Tensor, labels: Tensor, features: Tensor) -> dict[str, Tensor]:
            self.images.append(images.detach())
            self.labels.append(labels)
            self.features.append(features.detach())
            return {}

        return Additions(terms=terms)
