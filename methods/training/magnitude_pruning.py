"""Switch the filters with the smallest weights off for good, then train on: static rival of gates that look."""

from dataclasses import dataclass

import torch
from torch import nn

from bench.contract import SetupError, TrainingTask, method
from bench.gating import FixedGate, attach
from bench.ops import fit
from methods.training._gated import sgd, why_no_gates, with_gates


@method(
    source="Li et al. 2017 (pruning filters for efficient ConvNets), section 3.1, arXiv:1608.08710",
    differs="the same share of filters off in every layer that decoupling gates, the second of a residual block"
    " included; off filters are masked and skipped, not removed; optimiser and epochs as in `decoupling`",
    variants={"keep_80": {"keep": 0.8}, "keep_75": {"keep": 0.75}, "keep_60": {"keep": 0.6}, "keep_50": {"keep": 0.5}},
)
@dataclass(frozen=True, kw_only=True)
class MagnitudePruning:
    """The filters with the largest L1 norm stay; cross-entropy by SGD."""

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # not Nesterov's
    weight_decay: float = 1e-4  # of everything
    keep: float = 0.7  # share of each layer's filters that stays, rounded; at least one

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise SetupError(f"keep should be in (0, 1], got {self.keep}", "it is a share of filters")

    def why_not(self, task: TrainingTask) -> str | None:
        """Needs convolutions behind the stem."""
        return why_no_gates(task.network, self._gate)

    def rebuild(self, network: nn.Module, num_classes: int) -> nn.Module:
        """Return the untrained network with masks, in place."""
        attach(network, self._gate)
        return network

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the network with its masks, in eval mode."""
        network, _ = with_gates(task, self._gate)
        return fit(task, sgd(network, self.step_size, self.momentum, self.weight_decay))

    def _gate(self, name: str, conv: nn.Conv2d) -> FixedGate:
        size = conv.weight.detach().abs().sum((1, 2, 3))
        kept = size.topk(max(1, round(self.keep * len(size)))).indices
        return FixedGate(torch.zeros(len(size), dtype=torch.bool, device=size.device).index_fill(0, kept, True))
