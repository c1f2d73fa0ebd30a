"""Which weights of a network Bort constrains, as groups for its optimizers, and how orthogonal they are."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bench.ops import CONVOLUTIONS, matrix_count, squared_singular_values
from methods.training._bort_checks import Weight
from methods.training._bort_correction import Amplitude, squared_amplitude

Selection = Callable[[str, Tensor], bool] | Collection[str]  # a predicate, or names and patterns: "blocks.*.qkv.*"
SplitQKV = bool | Literal["heads"]


def constrained_weights(
    model: nn.Module,
    *,
    include: Selection | None = None,
    exclude: Selection | None = None,
    split_qkv: SplitQKV = False,
    head: bool = True,
) -> list[Weight]:
    """The weights that are constrained, each once even where modules share it; frozen ones are left out.

    By default kernels of convolutions and linear layers [code], ``in_proj_weight`` of attention, and kernels of
    transposed convolutions [our choice]; never biases, normalisation, embeddings and tokens [code]. A grouped
    convolution is a batch of as many matrices, since flattened whole it would shrink [measured]: a depthwise one has
    its norm controlled, no more. A transposed one is flattened as stored, (C_in, C_out · k · k) [our choice].

    Args:
        include: also these: a predicate of (name, parameter), or names and patterns as of fnmatch. For layers of
            one's own, which no filter by type can know.
        exclude: not these, whatever else is said.
        split_qkv: see fused query, key and value as three matrices, or with "heads" as three for each head. As one
            tall matrix, which is the default [code], each of the three is badly conditioned [measured].
        head: whether the last linear layer, the classifier, is constrained too.

    Raises:
        ValueError: a parameter is not initialised, or a weight to be chosen is computed by a parametrization.
    """
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    headless = [] if head else [f"{name}.weight".lstrip(".") for name in last]
    chosen: dict[int, Weight] = {}
    for owner, module in model.named_modules():
        for name, parameter, blocks in _own_parameters(model, owner, module, split_qkv):
            if name in headless or _matches(exclude, name, parameter):
                continue
            count = blocks if blocks or not _matches(include, name, parameter) else getattr(module, "groups", 1)
            if count and parameter is None:
                raise ValueError(
                    f"{name} is computed by a parametrization; exclude it, and include the tensor beneath if that is"
                    " meant to be constrained"
                )
            if count and parameter.requires_grad:
                chosen.setdefault(id(parameter), Weight(name, parameter, count, "l2-full"))
    return list(chosen.values())


def bort_param_groups(
    model: nn.Module,
    *,
    gamma: float,
    amplitude: Amplitude = 1.0,
    mode: str = "l2-full",
    include: Selection | None = None,
    exclude: Selection | None = None,
    split_qkv: SplitQKV = False,
    head: bool = True,
    weight_decay: float | None = None,
    constrained_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Groups of named parameters: constrained weights, other weights with two axes or more, and the rest.

    Args:
        model: all its parameters that require a gradient are in one of the groups.
        gamma, amplitude, mode: of the constraint; see ``bort_correction``.
        include, exclude, split_qkv, head: see ``constrained_weights``.
        weight_decay: of the weights that are not constrained; None leaves it to the optimizer. Parameters with fewer
            than two axes have none.
        constrained_decay: of those that are; it moves the target to amplitude − constrained_decay / gamma.

    Raises:
        ValueError: see ``constrained_weights``.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"{name} is not initialised yet; pass a batch through the network first")
    weights = constrained_weights(model, include=include, exclude=exclude, split_qkv=split_qkv, head=head)
    taken = {id(weight.parameter) for weight in weights}
    others = [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in taken]
    constrained = {
        "params": [(weight.name, weight.parameter) for weight in weights],
        "gamma": gamma,
        "amplitude": amplitude,
        "mode": mode,
        "blocks": [weight.blocks for weight in weights],
        "weight_decay": constrained_decay,
    }
    matrices: dict[str, Any] = {"params": [(name, p) for name, p in others if p.ndim >= 2], "gamma": 0.0}
    if weight_decay is not None:
        matrices["weight_decay"] = weight_decay
    vectors = {"params": [(name, p) for name, p in others if p.ndim < 2], "gamma": 0.0, "weight_decay": 0.0}
    return [group for group in (constrained, matrices, vectors) if group["params"]]


def _own_parameters(
    model: nn.Module, owner: str, module: nn.Module, split_qkv: SplitQKV
) -> Iterator[tuple[str, Any, int]]:
    """(name, parameter, blocks) of a module's own: blocks is 0 where nothing is constrained by default.

    The parameter is None where a parametrization computes the weight of a layer.
    """
    prefix = f"{owner}." if owner else ""
    for key, parameter in module._parameters.items():
        if parameter is not None:
            yield f"{prefix}{key}", parameter, _blocks(model, owner, module, key, split_qkv)
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and module._parameters.get("weight") is None:
        yield f"{prefix}weight", None, 1


def _blocks(model: nn.Module, owner: str, module: nn.Module, key: str, split_qkv: SplitQKV) -> int:
    """How many matrices a parameter holds, one after the other along axis 0; 0 when it is not constrained."""
    count = matrix_count(module, key)
    if not (count and split_qkv):
        return count
    if isinstance(module, nn.MultiheadAttention):  # a fused parameter, or query, key or value alone
        return (3 if key == "in_proj_weight" else 1) * (module.num_heads if split_qkv == "heads" else 1)
    above, _, name = owner.rpartition(".")
    if not (isinstance(module, nn.Linear) and name.endswith("qkv") and module.out_features % 3 == 0):
        return count
    return 3 * int(model.get_submodule(above).num_heads) if split_qkv == "heads" else 3


def _matches(selection: Selection | None, name: str, parameter: Tensor) -> bool:
    if selection is None:
        return False
    if callable(selection):
        return parameter is not None and selection(name, parameter)
    return any(fnmatchcase(name, pattern) for pattern in selection)


# ---- how orthogonal they are ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """How far one layer is from its constraint; of several blocks the worst one, norms over all.

    Args:
        rows, columns: of each of its ``blocks`` matrices.
        amplitude: the target a.
        residual: ‖W Wᵀ / a − I‖ / √min(n, m), Frobenius, by Wᵀ W where rows outnumber columns.
        largest_error: max |σ / √a − 1| over the min(n, m) singular values.
        row_norm: mean of the row norms.
        row_spread: their standard deviation.
    """

    name: str
    blocks: int
    rows: int
    columns: int
    amplitude: float
    residual: float
    largest_error: float
    row_norm: float
    row_spread: float

    def __str__(self) -> str:
        times = f"{self.blocks} × " if self.blocks > 1 else ""
        return (
            f"{self.name} ({times}{self.rows} × {self.columns}): residual {self.residual:.4f},"
            f" singular values off by up to {self.largest_error:.4f},"
            f" row norm {self.row_norm:.4f} ± {self.row_spread:.4f}"
        )


@torch.no_grad()
def orthogonality_report(model: nn.Module, *, amplitude: Amplitude = 1.0, **selection: Any) -> list[LayerReport]:
    """One report a constrained weight, in float64.

    Args:
        amplitude: a, or "ada" for each matrix's own (mean of row norms)².
        selection: what ``constrained_weights`` takes.
    """
    weights = constrained_weights(model, **selection)
    return [_report(weight, amplitude) for weight in weights if weight.parameter.numel()]


def _report(weight: Weight, amplitude: Amplitude) -> LayerReport:
    matrices = weight.matrices().double()  # (blocks, n, m)
    rows, columns = weight.shape
    target = torch.as_tensor(squared_amplitude(matrices, amplitude)).to(matrices).reshape(-1, 1)  # (blocks or 1, 1)
    squares = squared_singular_values(matrices) / target  # (blocks, min(n, m)), 1 where the constraint is met
    norms = torch.linalg.vector_norm(matrices, dim=-1)
    return LayerReport(
        name=weight.name,
        blocks=weight.blocks,
        rows=rows,
        columns=columns,
        amplitude=target.mean().item(),
        residual=(squares - 1).square().mean(-1).sqrt().max().item(),
        largest_error=(squares.sqrt() - 1).abs().max().item(),
        row_norm=norms.mean().item(),
        row_spread=norms.std(correction=0).item(),
    )
