"""How many numbers training has set."""

import torch
from torch import Tensor

from bench.contract import Classifier, metric


@metric(
    unit="million",
    better="lower",
    per="set",
    bounds=(0.0, None),
    tracks=("training",),
    resample="none",
    id="parameters_million",
)
def parameters(*, target: Classifier) -> Tensor:
    """Parameters of the trained network in millions, each shared one counted once.

    Buffers, such as running means, are not parameters. For torchvision's resnet18 this is 11.689512.
    Source: the usual definition; no paper to match.
    Beware: it says little of time and memory: a convolution uses each of its parameters at every place of the image.

    Args:
        target: the trained network as a subject.

    Returns:
        () float64 in millions.

    Raises:
        AttributeError: ``target`` is no subject.
    """
    count = sum(parameter.numel() for parameter in target.network.parameters())
    return torch.tensor(count / 1e6, dtype=torch.float64)
