"""What BatchNorm layers remember of the training data, for methods that match it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.contract import Classifier


@dataclass
class Seen:
    """What went into the BatchNorm layers in the subject's latest forward pass."""

    rows: int = 0  # images in that pass, those that only fill the batch included
    inputs: list[tuple[_BatchNorm, Tensor]] = field(default_factory=list)

    def of(self, images: int) -> list[tuple[_BatchNorm, Tensor]]:
        """Each layer with its input for the pass's first ``images`` images; the others only filled the batch."""
        return [(layer, entered[: len(entered) * images // self.rows]) for layer, entered in self.inputs]


@contextmanager
def watched(model: Classifier) -> Iterator[Seen]:
    """Hooks that keep what enters the BatchNorm layers, forget it at the start of the next pass, and go at the end."""
    seen = Seen()

    def begin(network: nn.Module, args: tuple[Tensor]) -> None:
        seen.rows = len(args[0])
        seen.inputs.clear()

    def keep(layer: nn.Module, args: tuple[Tensor]) -> None:
        assert isinstance(layer, _BatchNorm)
        seen.inputs.append((layer, args[0]))

    hooks = [model.network.register_forward_pre_hook(begin)]
    try:
        hooks += [layer.register_forward_pre_hook(keep) for layer in batch_norms(model)]
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def batch_norms(model: Classifier) -> list[_BatchNorm]:
    """Every BatchNorm layer of the subject that has running statistics."""
    layers = [layer for layer in model.network.modules() if isinstance(layer, _BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None and layer.running_var is not None]


def moments(layer: _BatchNorm, entered: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(D,) mean and variance by channel of what enters a layer, (B, D, …), and the layer's running ones."""
    assert layer.running_mean is not None and layer.running_var is not None
    variance, mean = torch.var_mean(entered, (0, *range(2, entered.ndim)), correction=0)
    return mean, variance, layer.running_mean, layer.running_var
