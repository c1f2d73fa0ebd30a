"""What a constrained group may hold, and which constraints are too strong for their step: told before any step.

Limits are stated for c = step size × γ, or × k γ where every k-th step is corrected, target a and a weight's largest
singular value σ. Tags: see ``_bort_correction``.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from methods.training._bort_correction import (
    ADA,
    DENSE,
    MODES,
    Amplitude,
    as_matrices,
    fitting,
    is_by_rows,
    is_full,
    lengthened,
    matrix_axes,
    squared_amplitude,
)

POWER_ITERATIONS = 12  # of the pre-flight's estimate of σ²: a few percent below the truth
L1_LARGEST_MOVE = 0.1  # relative change of a weight by one step of an l1 mode above which it is told [our choice]


@dataclass(frozen=True)
class Momentum:
    """What the stock optimizer makes of a correction.

    Args:
        gain: share of c that has acted before the next correction.
        limit: c · a up to which the constraint is reached and held [derived, measured].
    """

    gain: float = 1.0
    limit: float = 1.0

    @classmethod
    def of_sgd(cls, momentum: float, nesterov: bool, every: int = 1) -> "Momentum":
        """Near σ² = a the correction is linear with slope 2a: gradient descent on it gives the limits.

        Between two corrections the buffer goes on unseen: of k steps heavy-ball momentum makes (1 − μᵏ) / (1 − μ), and
        Nesterov's as much as k + 1. The two eigenvalues of such a cycle stay inside the unit circle up to
        c a = (1 + μᵏ) / gain, and Nesterov's up to (1 + μᵏ) / (gain + μᵏ) [derived]: 1 − μ when k is large.

        At k = 1 that is 1 + μ, divided by 1 − dampening, but from further away heavy-ball momentum may leave before;
        its limit is therefore never taken above plain SGD's, 1. Nesterov's is then (1 + μ) / (1 + 2μ).
        """
        left = momentum**every  # share of the buffer that is there at the next correction
        gain = sum(momentum**step for step in range(every + nesterov))
        return cls(gain, (1 + left) / (gain + left) if nesterov else min(1.0, (1 + left) / gain))


# ---- numbers -------------------------------------------------------------------------------------------------------


def check_settings(group: Mapping[str, Any], where: str) -> None:
    """Refuse numbers that the stock optimizers let through; waits for no device.

    Raises:
        ValueError: naming the group, the setting and what was found.
    """
    gamma, amplitude, mode, every = group["gamma"], group["amplitude"], group["mode"], group["every"]
    if not (_is_number(gamma) and 0 <= gamma < math.inf):
        raise ValueError(f"{where}: gamma should be a finite number ≥ 0, got {gamma!r}")
    if not (_is_number(amplitude) and 0 < amplitude < math.inf) and amplitude != ADA:
        raise ValueError(f"{where}: amplitude should be a finite number > 0 or {ADA!r}, got {amplitude!r}")
    if mode not in MODES:
        raise ValueError(f"{where}: mode should be one of {', '.join(MODES)}, got {mode!r}")
    if not (isinstance(every, int) and not isinstance(every, bool) and every >= 1):
        raise ValueError(f"{where}: every should be a whole number ≥ 1, got {every!r}")
    for name in ("lr", "weight_decay"):
        value = group[name]
        if isinstance(value, Tensor) and value.device.type != "cpu":
            continue  # to look would be to wait
        if not 0 <= float(value) < math.inf:
            raise ValueError(f"{where}: {name} should be finite and ≥ 0, got {float(value)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- tensors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weight:
    """One constrained parameter: ``blocks`` matrices of (rows, columns), one after the other along axis 0."""

    name: str
    parameter: Tensor
    blocks: int
    mode: str  # the group's, or the other side's where the shape asks for it

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of each matrix."""
        return self.parameter.shape[0] // self.blocks, self.parameter[0].numel()

    def matrices(self) -> Tensor:
        """(blocks, rows, columns) in float32 or longer."""
        flat = as_matrices(self.parameter.detach(), self.blocks, matrix_axes(self.parameter))
        return lengthened(flat).view(self.blocks, *self.shape)

    def write(self, matrices: Tensor) -> None:
        """Put (blocks, rows, columns), in the order that ``matrices`` gives them, in the parameter's place."""
        ordered = self.parameter.detach().permute(matrix_axes(self.parameter))
        ordered.copy_(matrices.reshape(ordered.shape))


def weights_of(group: Mapping[str, Any]) -> Iterator[Weight]:
    """The matrices of a group; parameters with fewer than two axes, or without entries, are none."""
    for name, parameter, count in zip(_names_of(group), group["params"], _blocks_of(group), strict=True):
        if parameter.ndim >= 2 and parameter.numel() > 0:
            mode = fitting(group["mode"], parameter.shape[0] // count, parameter[0].numel())
            yield Weight(name, parameter, count, mode)


def _names_of(group: Mapping[str, Any]) -> Sequence[str]:
    return group.get("param_names") or [f"parameter {place}" for place in range(len(group["params"]))]


def _blocks_of(group: Mapping[str, Any], where: str = "") -> Sequence[int]:
    """Blocks of each parameter; a group may give one number for all."""
    blocks, count = group["blocks"], len(group["params"])
    if isinstance(blocks, int):
        return [blocks] * count
    if len(blocks) != count:
        raise ValueError(f"{where}: {len(blocks)} numbers of blocks for {count} parameters")
    return list(blocks)


def check_weights(group: Mapping[str, Any], where: str) -> None:
    """Refuse what cannot be constrained, and say what is left out.

    Raises:
        ValueError: not initialised, sharded or flattened, wrong number of blocks, "ada" where the weights would
            collapse; with ``strict`` also fewer than two axes, and an l1 mode of the wrong side.
        TypeError: not real floating point.
    """
    names = _names_of(group)
    for name, parameter in zip(names, group["params"], strict=True):
        _check_kind(parameter, f"{where}: {name}")
    for name, parameter, count in zip(names, group["params"], _blocks_of(group, where), strict=True):
        if parameter.ndim >= 2 and (count < 1 or parameter.shape[0] % count):
            raise ValueError(f"{where}: {name}: {parameter.shape[0]} rows do not make {count} blocks")
    left_out = [name for name, parameter in zip(names, group["params"], strict=True) if parameter.ndim < 2]
    if left_out and group["strict"]:
        raise ValueError(f"{where}: {', '.join(left_out)}: a constraint needs two axes or more")
    if left_out:
        _warn(f"{where}: {', '.join(left_out)}: fewer than two axes, left unconstrained")
    short = []
    for weight in weights_of(group):
        _check_shape(weight, group, where)
        if weight.parameter.dtype not in DENSE:
            short.append(weight.name)
    if short:
        _warn(f"{where}: {', '.join(short)}: small corrections are lost in 16-bit weights; keep float32 master weights")


def _check_kind(parameter: Tensor, who: str) -> None:
    if is_lazy(parameter) or parameter.is_meta:
        raise ValueError(f"{who}: lazy and meta parameters have no values yet; initialise them first")
    if getattr(parameter, "_is_flat_param", False) or hasattr(parameter, "device_mesh"):
        raise ValueError(f"{who}: flattened or sharded parameters hold no whole matrix; use the original parameters")
    if not parameter.is_floating_point():
        raise TypeError(f"{who}: only real floating point weights can be constrained, got {parameter.dtype}")


def _check_shape(weight: Weight, group: Mapping[str, Any], where: str) -> None:
    who, (rows, columns) = f"{where}: {weight.name}", weight.shape
    if group["strict"] and weight.mode != group["mode"]:
        raise ValueError(f"{who}: {group['mode']} has no fixed point for {rows} × {columns}; take {weight.mode}")
    if group["amplitude"] == ADA and not group["allow_collapse"] and not ada_holds(weight.mode, rows, columns):
        raise ValueError(
            f"{who}: amplitude {ADA!r} drives a {rows} × {columns} weight to zero or out of bounds by {weight.mode};"
            " give a number, or allow_collapse=True"
        )


def ada_holds(mode: str, rows: int, columns: int) -> bool:
    """Whether "ada" has a fixed point other than zero: l2-full and l2-row, on weights that are not tall.

    Tall: σ² = a cannot hold where the mean squared row norm is a m / n. l1 modes lose norm by their jitter; column
    modes aim at a row's norm, too small when tall and too large when wide [derived, measured over 6 000 steps].
    """
    return mode in ("l2-full", "l2-row") and rows <= columns


def check_gradients(weights: Sequence[Weight], where: str) -> None:
    """Refuse sparse gradients before anything is written.

    Raises:
        RuntimeError: naming the parameter and the way out.
    """
    for weight in weights:
        gradient = weight.parameter.grad
        if gradient is not None and gradient.layout != torch.strided:
            raise RuntimeError(
                f"{where}: {weight.name} has a sparse gradient, its correction is dense;"
                " move the embedding to the unconstrained group"
            )


def check_finite(groups: Sequence[Mapping[str, Any]]) -> None:
    """Look at all weights and gradients of the groups that ask for it; waits for the device once.

    Raises:
        RuntimeError: naming the parameters in which something is infinite or not a number.
    """
    named: list[tuple[str, Tensor]] = []
    for index, group in enumerate(groups):
        for name, parameter in zip(_names_of(group), group["params"], strict=True):
            if group["error_if_nonfinite"] and parameter.grad is not None and parameter.numel() > 0:
                named.append((f"group {index}, {name}", parameter.detach()))
                named.append((f"group {index}, gradient of {name}", parameter.grad.detach()))
    if not named:
        return
    largest = torch._foreach_norm([tensor for _, tensor in named], math.inf)
    good = torch.stack([one.to(largest[0].device, torch.float64) for one in largest]).isfinite().tolist()
    bad = [name for (name, _), fine in zip(named, good, strict=True) if not fine]
    if bad:
        raise RuntimeError(f"not finite: {'; '.join(bad)}; nothing was written")


# ---- how strong a constraint may be --------------------------------------------------------------------------------


def predicted_square(amplitude: Amplitude, weight_decay: float, gamma: float, mode: str) -> float:
    """The squared singular value (or norm) at which correction and decay balance without a loss [derived].

    max(0, a − decay / γ) for l2, in the decoupled rule to first order in step size × decay; for l1, whose pull does not
    fade, a or nothing; "ada" follows the decay to zero.
    """
    if weight_decay == 0:
        return math.nan if amplitude == ADA else float(amplitude)
    if amplitude == ADA:
        return 0.0
    if mode.startswith("l1"):
        return float(amplitude) if weight_decay < gamma else 0.0
    return max(0.0, float(amplitude) - weight_decay / gamma)


def warn_of_decay(group: Mapping[str, Any], where: str) -> None:
    """Warn where weight decay wins over the constraint."""
    gamma, decay = group["gamma"], float(group["weight_decay"])
    square = predicted_square(group["amplitude"], decay, gamma, group["mode"])
    if square == 0.0:
        _warn(
            f"{where}: weight_decay {decay:g} is too strong for gamma {gamma:g}: without a loss the weights would"
            f" settle at sigma² = {square:g}; lower weight_decay (0 is the default here) or raise gamma"
        )


def check_step_size(group: Mapping[str, Any], where: str, momentum: Momentum) -> None:
    """The pre-flight: compare c with the limits for these weights; waits for the device.

    l2 modes: c (σ² − a) ≥ 2 leaves the finite numbers in a few steps, ≥ 1 turns a weight's sign; c a beyond
    ``momentum.limit`` makes the constraint itself unstable, and c a ≥ 2 leaves the finite numbers from any start
    [derived]. With ``clip_correction`` only the limit of c a is left, and told. l1 modes: a step moves a weight by
    c · ‖sign matrix‖, about 2.4 √n c for a Gram matrix of side n [measured].

    Raises:
        ValueError: with the largest gamma that keeps every sign and is stable.
    """
    rate = float(group["lr"])
    strength = rate * group["gamma"] * group["every"]
    if strength == 0:
        return
    highest, largest_target, worst = -math.inf, 0.0, ""
    for weight in weights_of(group):
        if weight.mode.startswith("l1"):
            _warn_of_l1_move(weight, strength, group["every"], where)
            continue
        matrices = weight.matrices()
        target = torch.as_tensor(squared_amplitude(matrices, group["amplitude"])).double()
        above = float((largest_square(matrices, weight.mode).double() - target.flatten().to(matrices.device)).max())
        largest_target = max(largest_target, float(target.max()))
        if above > highest:
            highest, worst = above, weight.name
    if largest_target == 0:
        return
    overshoot, linear = momentum.gain * strength * highest, strength * largest_target
    longest = rate * group["every"]
    safe = momentum.limit / (longest * largest_target)
    clipped = group["clip_correction"]
    if highest > 0 and not clipped:
        safe = min(safe, 1 / (longest * momentum.gain * highest))
    advice = f"the largest safe gamma at step size {rate:g} is {safe:.3g}"
    if not clipped and (overshoot >= 2 or momentum.gain * linear >= 2):
        cause = f"{worst} has sigma² = a + {highest:.3g}" if overshoot >= 2 else f"a = {largest_target:g}"
        raise ValueError(f"{where}: gamma {group['gamma']:g} makes the weights diverge: {cause}; {advice}")
    if not clipped and overshoot >= 1:
        _warn(f"{where}: the first correction turns the sign of {worst} (sigma² = a + {highest:.3g}); {advice}")
    elif linear >= momentum.limit:
        product = "step size × gamma × a" if group["every"] == 1 else "step size × gamma × every × a"
        _warn(f"{where}: {product} = {linear:.3g} is beyond {momentum.limit:.3g}, not stable; {advice}")


def _warn_of_l1_move(weight: Weight, strength: float, every: int, where: str) -> None:
    side = min(weight.shape) if is_full(weight.mode) else 0
    move = strength * (2.4 * math.sqrt(side) if side else 1.0)
    if move >= L1_LARGEST_MOVE:
        _warn(
            f"{where}: one step of {weight.mode} moves {weight.name} by about {100 * move:.0f} %;"
            f" the largest calm gamma is {L1_LARGEST_MOVE * strength / move / every:.3g} / step size"
        )


def largest_square(matrices: Tensor, mode: str) -> Tensor:
    """(blocks,) the largest squared singular value of (blocks, n, m), or squared norm where the mode sees only norms.

    Singular values are estimated from below by power iterations from the longest row.
    """
    if not is_full(mode):
        by_rows = is_by_rows(mode, *matrices.shape[-2:])
        return torch.linalg.vector_norm(matrices, dim=-1 if by_rows else -2).amax(-1).square()
    longest = torch.linalg.vector_norm(matrices, dim=-1).argmax(-1)
    vector = matrices[torch.arange(len(matrices), device=matrices.device), longest].unsqueeze(-1)  # (blocks, m, 1)
    for _ in range(POWER_ITERATIONS):
        vector = torch.nn.functional.normalize(vector, dim=-2)
        vector = matrices.mT @ (matrices @ vector)
    return torch.linalg.vector_norm(vector, dim=(-2, -1))


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=2)
