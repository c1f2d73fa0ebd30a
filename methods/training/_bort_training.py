"""What the training methods with Bort share: groups, an orthogonal start, and residuals in the log."""

from typing import Any

import torch
from torch import nn

from bench.contract import SetupError, TrainingTask
from bench.ops import fit
from methods.training._bort_correction import squared_amplitude
from methods.training._bort_selection import bort_param_groups, constrained_weights, orthogonality_report


def groups_for(task: TrainingTask, settings: Any) -> list[dict[str, Any]]:
    """Groups for a constrained optimizer, after the start that the settings ask for.

    Raises:
        SetupError: an unknown start.
    """
    selection = _selection(settings)
    if settings.init == "orthogonal":
        start_orthogonal(task.network, settings.amplitude, **selection)
    elif settings.init != "default":
        raise SetupError(f"init {settings.init!r} is no start", "write default or orthogonal")
    return bort_param_groups(
        task.network,
        gamma=settings.gamma,
        amplitude=settings.amplitude,
        mode=settings.mode,
        weight_decay=settings.weight_decay,
        constrained_decay=settings.constrained_decay,
        **selection,
    )


@torch.no_grad()
def start_orthogonal(network: nn.Module, amplitude: float | str, **selection: Any) -> None:
    """Give every constrained weight orthogonal rows or columns of size √a, by QR of what it is.

    No number is drawn: the start stays a function of the seed, and of normal weights the result is uniform over all
    orthogonal ones (Mezzadri 2007, section 3, arXiv:math-ph/0609050), the signs of R's diagonal moved to Q.
    """
    for weight in constrained_weights(network, **selection):
        matrices = weight.matrices()
        size = torch.as_tensor(squared_amplitude(matrices, amplitude)).sqrt().to(matrices).reshape(-1, 1, 1)
        wide = weight.shape[0] < weight.shape[1]
        q, r = torch.linalg.qr(matrices.mT if wide else matrices)
        q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        weight.write(size * (q.mT if wide else q))


def fit_and_report(task: TrainingTask, optimiser: torch.optim.Optimizer, settings: Any) -> nn.Module:
    """Train by ``fit``, and log for each constrained weight how far from its constraint it ended."""
    network = fit(task, optimiser)
    for layer in orthogonality_report(network, amplitude=settings.amplitude, **_selection(settings)):
        task.note(str(layer))
    return network


def _selection(settings: Any) -> dict[str, Any]:
    return {"split_qkv": settings.split_qkv, "head": settings.head}
