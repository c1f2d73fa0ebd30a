"""What training methods with gates, and their dense control, share: the optimiser, and putting gates on and off.

The networks start from trained weights where the suite says so (``start`` of a recipe), all methods from the same.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn

from bench.contract import SetupError, TrainingTask, seed_for
from bench.gating import Gate, GatedLayer, attach

MakeGate = Callable[[str, nn.Conv2d], Gate]


def sgd(network: nn.Module, step_size: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with decay of every parameter, those of gates included [code-20]."""
    return torch.optim.SGD(network.parameters(), lr=step_size, momentum=momentum, weight_decay=weight_decay)


def with_gates(task: TrainingTask, make_gate: MakeGate) -> tuple[nn.Module, dict[str, GatedLayer]]:
    """The task's network with gates, in place, and its gated layers; their start depends on the task's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(task.seed, "gates"))
        layers = attach(task.network, make_gate)
    return task.network, layers


def why_no_gates(network: nn.Module, make_gate: MakeGate) -> str | None:
    """The reason why a network cannot get gates, None where it can; nothing is changed."""
    try:
        with torch.random.fork_rng(devices=[]):
            attach(copy.deepcopy(network), make_gate)
    except SetupError as reason:
        return str(reason).split("\n")[0]
    return None
