"""What training methods with a penalty on the distance from orthogonality share: Bort's choice of weights, and SGD.

A penalty is a function from the (blocks, n, m) matrices of one weight to a number. Tags as in ``_bort_correction``,
where [code] is the public code of Bansal et al. 2018 (VITA-Group/Orthogonality-in-CNNs) as far as penalties go.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import TrainingTask
from bench.ops import fit
from methods.training._bort_checks import Weight
from methods.training._bort_correction import as_matrices, lengthened, matrix_axes, without_autocast
from methods.training._bort_selection import bort_param_groups, constrained_weights

# Share of the run → factor of the strength from there on: 20, 50, 70 and 120 of 200 epochs [code].
ANNEALING = ((0.6, 0.0), (0.35, 1e-6), (0.25, 1e-4), (0.1, 1e-3), (0.0, 1.0))


def train_with_penalty(task: TrainingTask, settings: Any, penalty: Callable[[Tensor], Tensor]) -> nn.Module:
    """Train by SGD on cross-entropy + strength × the sum of penalties over the weights that Bort constrains."""
    selection = {"split_qkv": settings.split_qkv, "head": settings.head}
    weights = constrained_weights(task.network, **selection)

    def added(network: nn.Module, done: float) -> Tensor:
        strength = settings.strength * (annealed(done) if settings.annealed else 1.0)
        with without_autocast(task.device):  # near the constraint, shorter products are noise
            return strength * torch.stack([penalty(matrices_of(weight)) for weight in weights]).sum()

    groups = bort_param_groups(
        task.network,
        gamma=0.0,
        weight_decay=settings.weight_decay,
        constrained_decay=settings.constrained_decay,
        **selection,
    )
    plain = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    optimiser = torch.optim.SGD(plain, lr=settings.step_size, momentum=settings.momentum, nesterov=True)
    return fit(task, optimiser, penalty=added if weights else None)


def matrices_of(weight: Weight) -> Tensor:
    """(blocks, n, m) of a weight, with its graph, in float32 or longer."""
    flat = as_matrices(weight.parameter, weight.blocks, matrix_axes(weight.parameter))
    return lengthened(flat).view(weight.blocks, *weight.shape)


def annealed(done: float) -> float:
    """Factor of the strength after a share ``done`` of the steps."""
    return next(factor for start, factor in ANNEALING if done >= start)
