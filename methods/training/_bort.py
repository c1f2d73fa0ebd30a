"""Bort as optimizers: torch's own SGD and AdamW, with a pull of chosen weights towards bounded orthogonal matrices.

A group of parameters with ``gamma`` > 0 is constrained. ``Coupled`` adds γ Δ to the gradient, inside the momentum;
``Decoupled`` moves the weights by step size × γ Δ, beside the moments. Both are rules of [code]; that the coupled one
is SGD with soft orthogonality at γ / 4 is [derived]. Any other optimizer is constrained by one line: see ``BortSGD``.

Nothing is stored for a parameter and nothing is sent between processes, so states are interchangeable with the stock
optimizer's, and copies of a network that get equal gradients stay equal; the one counter, of ``every``, is a number
of the group. A step never waits for the device, unless ``error_if_nonfinite`` asks for it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from methods.training import _bort_checks as checks
from methods.training._bort_checks import Momentum, Weight
from methods.training._bort_correction import (
    LARGEST_STACK,
    Amplitude,
    add_correction_,
    add_corrections_,
    bort_correction,
    bort_penalty,
    without_autocast,
)
from methods.training._bort_selection import LayerReport, bort_param_groups, orthogonality_report

__all__ = [
    "BortAdamW",
    "BortSGD",
    "Coupled",
    "Decoupled",
    "LayerReport",
    "bort_correction",
    "bort_param_groups",
    "bort_penalty",
    "orthogonality_report",
]

# What a group says of its constraint, and what one that says nothing gets: groups added late are unconstrained.
DEFAULTS: Mapping[str, Any] = {
    "gamma": 0.0,
    "amplitude": 1.0,
    "mode": "l2-full",
    "blocks": 1,
    "strict": False,
    "allow_collapse": False,
    "error_if_nonfinite": False,
    "clip_correction": False,
    "every": 1,
    "uncorrected": 0,  # steps since the last correction; here, so that a saved state goes on where it was
}


class Constrained(Optimizer):
    """What the two rules share: groups, checks, states, and the step around the stock optimizer's.

    Args:
        params: parameters, or groups as of ``bort_param_groups``; what a group says wins over the arguments below.
        lr: the step size, scheduled or not, also scales the correction [code].
        gamma: strength of the constraint; 0 leaves the stock optimizer, bit for bit.
        amplitude: target a of squared singular values, or "ada"; see ``bort_correction``. ``amptitude``, as the
            authors' code spells it, is understood too.
        mode: one of ``MODES``.
        weight_decay: None means the stock optimizer's default, and 0 in constrained groups, since decay moves the
            target to a − decay / γ [our choice].
        strict: parameters with fewer than two axes and l1 modes of the wrong side are errors, not left out or turned.
        allow_collapse: take "ada" even where it has no fixed point.
        error_if_nonfinite: look for infinities in weights and gradients before each step.
        clip_correction: weaken the correction of each matrix, R W, so that c ‖R‖ ≤ ½ by an upper bound of the norm:
            before the next one it moves no singular value by more than half, and too large weights come back instead
            of leaving the finite numbers. See ``clipped_``; c with what momentum makes of it.
        every: correct at steps k, 2k, … alone, by k γ; the limits are those of k γ. A parameter without a gradient at
            such a step waits for the next.
        settings: what the stock optimizer takes.
    """

    stock: ClassVar[type[Optimizer]]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        gamma: float = 0.0,
        amplitude: Amplitude = 1.0,
        mode: str = "l2-full",
        weight_decay: float | None = None,
        strict: bool = False,
        allow_collapse: bool = False,
        error_if_nonfinite: bool = False,
        clip_correction: bool = False,
        every: int = 1,
        amptitude: Amplitude | None = None,
        **settings: Any,
    ) -> None:
        if settings.get("differentiable"):
            raise ValueError("differentiable=True: the correction is made without a graph")
        own: dict[str, Any] = {
            "gamma": gamma,
            "amplitude": amplitude if amptitude is None else amptitude,
            "mode": mode,
            "strict": strict,
            "allow_collapse": allow_collapse,
            "error_if_nonfinite": error_if_nonfinite,
            "clip_correction": clip_correction,
            "every": every,
        }
        if weight_decay is not None:
            own["weight_decay"] = settings["weight_decay"] = weight_decay
        groups = [] if isinstance(params, Tensor) else list(params)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        super().__init__([own | _renamed(group) for group in groups] or params, lr=lr, **settings)
        self.defaults.update(DEFAULTS)
        # the scaler is to unscale and to skip: scaled gradients plus a correction would be neither
        self._step_supports_amp_scaling = False

    # ---- groups and states ----

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, unconstrained unless it brings a ``gamma``; everything is checked, and warned of, here."""
        group = {**DEFAULTS, **_renamed(param_group)}
        if _is_constrained(group):
            group.setdefault("weight_decay", 0.0)
        super().add_param_group(group)
        try:
            self._admit(len(self.param_groups) - 1)
            if _is_constrained(group):
                checks.check_step_size(group, self._where(len(self.param_groups) - 1), self._momentum(group))
        except Exception:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state of this class or of the stock optimizer; what a stock state does not say stays as it is."""
        saved = [_renamed(group) for group in state_dict["param_groups"]]
        for index, (group, loaded) in enumerate(zip(self.param_groups, saved, strict=False)):  # lengths: told by torch
            for name in DEFAULTS:
                loaded.setdefault(name, group[name])
            checks.check_settings({**group, **loaded}, self._where(index))
        super().load_state_dict({**state_dict, "param_groups": saved})
        for index in range(len(self.param_groups)):
            self._admit(index)

    def _admit(self, index: int) -> None:
        """Check a group whole, and remember for which settings it was found good."""
        group, where = self.param_groups[index], self._where(index)
        checks.check_settings(group, where)
        if _is_constrained(group):
            checks.check_weights(group, where)
            checks.warn_of_decay(group, where)
        self.__dict__.setdefault("_admitted", {})[index] = _settings_of(group)

    def _where(self, index: int) -> str:
        return f"{type(self).__name__}, parameter group {index}"

    # ---- the step ----

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure, if any; then correct; then do the stock optimizer's step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        constrained = list(self._checked())
        for group, weights in constrained:
            group["uncorrected"] += 1
            if group["uncorrected"] >= group["every"]:
                self._correct(group, weights)
                group["uncorrected"] = 0
        _without_hooks(self.stock)(self)
        return loss

    def _checked(self) -> Iterator[tuple[dict[str, Any], list[Weight]]]:
        """Each constrained group with its weights that have a gradient, when nothing speaks against any of them."""
        found = []
        for index, group in enumerate(self.param_groups):
            checks.check_settings(group, self._where(index))
            if self.__dict__.get("_admitted", {}).get(index) != _settings_of(group):  # set from outside, or unpickled
                self._admit(index)
            if _is_constrained(group):
                weights = [weight for weight in checks.weights_of(group) if weight.parameter.grad is not None]
                checks.check_gradients(weights, self._where(index))
                found.append((group, weights))
        checks.check_finite(self.param_groups)
        return iter(found)

    def _correct(self, group: Mapping[str, Any], weights: Sequence[Weight]) -> None:
        """Add every weight's correction to its target, equal shapes together where launches cost more than copies."""
        for bucket in _buckets(weights):
            first = bucket[0]
            how = {
                "amplitude": group["amplitude"],
                "mode": first.mode,
                "alpha": self._alpha(group) * group["every"],
                "shrink": self._shrink(group),
                "clip_at": self._strength(group) if group["clip_correction"] else None,
            }
            with without_autocast(first.parameter.device):
                if len(bucket) == 1:
                    add_correction_(self._target(first.parameter), first.parameter, blocks=first.blocks, **how)
                else:
                    parameters = [weight.parameter for weight in bucket]
                    targets = [self._target(parameter) for parameter in parameters]
                    add_corrections_(targets, parameters, blocks=[weight.blocks for weight in bucket], **how)

    # ---- what the rules differ in ----

    def _target(self, parameter: Tensor) -> Tensor:
        """What the correction is added to."""
        raise NotImplementedError

    def _alpha(self, group: Mapping[str, Any]) -> float | Tensor:
        """By how much of it."""
        raise NotImplementedError

    def _shrink(self, group: Mapping[str, Any]) -> float | Tensor:
        """What the weights are multiplied by before they are corrected."""
        return 1.0

    def _momentum(self, group: Mapping[str, Any]) -> Momentum:
        """How the stock optimizer carries a correction on."""
        return Momentum()

    def _strength(self, group: Mapping[str, Any]) -> float | Tensor:
        """What a correction moves the weights by until the next one, in units of Δ."""
        strength: float | Tensor = group["lr"] * group["gamma"] * group["every"] * self._momentum(group).gain
        return strength


class Coupled(Constrained):
    """The SGD form [code]: gradient + γ Δ(W), then decay and momentum; of long-run strength c / (1 − μ).

    The gradient is written to, as by an in-place clipping. ``maximize`` turns the loss alone, never the penalty.
    """

    def _target(self, parameter: Tensor) -> Tensor:
        assert parameter.grad is not None
        return parameter.grad

    def _alpha(self, group: Mapping[str, Any]) -> float:
        return -group["gamma"] if group.get("maximize") else group["gamma"]

    def _momentum(self, group: Mapping[str, Any]) -> Momentum:
        return Momentum.of_sgd(group["momentum"], group["nesterov"], group["every"])


class Decoupled(Constrained):
    """The AdamW form [code]: decay, W ← W − step size · γ Δ(W), then the stock step from the raw gradient.

    The stock step brings its decay itself: W is corrected first, by Δ(s W) / s with s = 1 − step size · decay, and
    then multiplied by s, which is the same [derived].
    """

    def _target(self, parameter: Tensor) -> Tensor:
        return parameter

    def _alpha(self, group: Mapping[str, Any]) -> float | Tensor:
        return -group["lr"] * group["gamma"]

    def _shrink(self, group: Mapping[str, Any]) -> float | Tensor:
        return 1.0 - group["lr"] * group["weight_decay"]


class BortSGD(Coupled, torch.optim.SGD):
    """SGD with the coupled rule. With a = 1 and ``l2-full`` it is SGD on loss + γ/4 ‖W Wᵀ − I‖² [derived, tested]."""

    stock = torch.optim.SGD


class BortAdamW(Decoupled, torch.optim.AdamW):
    """AdamW with the decoupled rule; its moments never see the correction."""

    stock = torch.optim.AdamW


def _is_constrained(group: Mapping[str, Any]) -> bool:
    gamma = group["gamma"]
    return isinstance(gamma, int | float) and gamma > 0  # anything else is told by `check_settings`


def _renamed(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the group with the authors' spelling of ``amplitude`` replaced."""
    renamed = dict(group)
    if "amptitude" in renamed:
        renamed["amplitude"] = renamed.pop("amptitude")
    return renamed


def _settings_of(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a group was checked with; the value of gamma may be scheduled."""
    blocks = group["blocks"]
    counts = (blocks,) if isinstance(blocks, int) else tuple(blocks)
    return _is_constrained(group), group["mode"], group["amplitude"], counts, len(group["params"])


def _without_hooks(stock: type[Optimizer]) -> Callable[[Optimizer], Any]:
    """The stock optimizer's step as its class was written.

    torch wraps the step of every class of which there is an object, so that hooks run; this class's own step is
    wrapped already, and would run them twice.
    """
    step = stock.step
    return step.__wrapped__ if getattr(step, "hooked", False) else step


def _buckets(weights: Sequence[Weight]) -> Iterator[list[Weight]]:
    """Weights to be corrected at once: each alone on a CPU, where copies cost more than calls; else by shape."""
    by_shape: dict[Any, list[Weight]] = defaultdict(list)
    for weight in weights:
        parameter = weight.parameter
        if parameter.device.type == "cpu":
            yield [weight]
        else:
            by_shape[parameter.device, parameter.dtype, weight.shape].append(weight)
    for alike in by_shape.values():
        largest = max(1, LARGEST_STACK // max(weight.parameter.numel() for weight in alike))
        yield from (alike[first : first + largest] for first in range(0, len(alike), largest))
