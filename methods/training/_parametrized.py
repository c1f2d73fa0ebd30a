"""What training methods with weights computed by torch's parametrizations share: put on, train by SGD, take off.

The weights are those that Bort constrains, as the same matrices. A copy of the network is parametrized and trained; its
weights are then written into the network itself, which never had anything but ordinary parameters.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bench.contract import SetupError, TrainingTask, seed_for
from bench.ops import fit, parameters_with_decay
from methods.training._bort_checks import Weight
from methods.training._bort_correction import without_autocast
from methods.training._bort_selection import constrained_weights

Wrap = Callable[[nn.Module], nn.Module]  # puts a torch parametrization on the `weight` of a module


class OfMatrices(nn.Module):
    """A parametrization of matrices as one of a weight of any shape, in full precision whatever autocast says."""

    def __init__(self, inner: nn.Module, weight_shape: torch.Size, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.weight_shape, self.shape = inner, weight_shape, shape

    def forward(self, original: Tensor) -> Tensor:
        """Matrices as they are learned → the weight."""
        with without_autocast(original.device):
            matrices: Tensor = self.inner(original)
        return matrices.reshape(self.weight_shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The weight at the start → matrices to learn."""
        original: Tensor = self.inner.right_inverse(weight.reshape(self.shape))  # type: ignore[operator]
        return original


def train_parametrized(
    task: TrainingTask,
    settings: Any,
    wrap: Wrap,
    selection: Mapping[str, Any],
    *,
    decay: float,
    whole: bool = False,
    settle: Callable[[nn.Module], None] = lambda network: None,
) -> nn.Module:
    """Train by SGD with parametrized weights; the network returned has none.

    Args:
        settings: of SGD.
        wrap: puts torch's parametrization on.
        selection: of weights; what ``constrained_weights`` takes.
        decay: of the tensors beneath the parametrized weights.
        whole: a weight of several matrices, as of a grouped convolution, is seen as one, below each other.
        settle: what is done with the parametrized network once it is trained.

    Raises:
        SetupError: modules share a weight, which a parametrization would part.
    """
    network = copy.deepcopy(task.network)
    weights = constrained_weights(network, **selection)
    _check_not_shared(network, weights)
    with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
        torch.manual_seed(seed_for(task.seed, "parametrization"))  # torch draws its start from the global generator
        beneath = {id(_parametrize(network, weight, wrap, whole)) for weight in weights}
    groups = []
    for group in parameters_with_decay(network, settings.weight_decay):
        learned = [parameter for parameter in group["params"] if id(parameter) in beneath]
        others = [parameter for parameter in group["params"] if id(parameter) not in beneath]
        groups += [{"params": learned, "weight_decay": decay}, {**group, "params": others}]
    optimiser = torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.step_size,
        momentum=settings.momentum,
        nesterov=True,
    )
    trained = fit(task.replace(network=network), optimiser)
    settle(trained)
    return folded(trained, task.network.to(task.device))


def _check_not_shared(network: nn.Module, weights: list[Weight]) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for weight in weights:
        if len(names[id(weight.parameter)]) > 1:
            shared = " and ".join(names[id(weight.parameter)])
            raise SetupError(f"{shared} are one weight, a parametrization would part them", "choose another method")


def _parametrize(network: nn.Module, weight: Weight, wrap: Wrap, whole: bool) -> nn.Parameter:
    """Have the weight computed from a parameter of its matrices, which is returned."""
    owner, _, key = weight.name.rpartition(".")
    module = network.get_submodule(owner)
    rows, columns = weight.shape
    shape = (weight.blocks * rows, columns) if whole else (weight.blocks, rows, columns)
    holder = nn.Module()
    holder.weight = nn.Parameter(weight.parameter.detach().reshape(shape))
    inner = wrap(holder).parametrizations.weight[0]  # type: ignore[index, union-attr]
    whole = OfMatrices(inner, weight.parameter.shape, shape)
    parametrize.register_parametrization(module, key, whole, unsafe=True)  # unsafe: the shape changes
    original: nn.Parameter = module.parametrizations[key].original  # type: ignore[index, union-attr, assignment]
    return original


@torch.no_grad()
def folded(parametrized: nn.Module, plain: nn.Module) -> nn.Module:
    """Write the weights of a parametrized network, as they are in eval mode, into one without parametrizations."""
    parametrized.eval()
    values = {}
    for name in plain.state_dict():
        owner, _, key = name.rpartition(".")
        values[name] = getattr(parametrized.get_submodule(owner), key)
    plain.load_state_dict(values)
    return plain.eval()
