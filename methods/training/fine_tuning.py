"""The dense control of methods with gates: the same optimiser for as long, and nothing else."""

from dataclasses import dataclass

from torch import nn

from bench.contract import TrainingTask, method
from bench.ops import fit
from methods.training._gated import sgd


@method(
    source="the control that a comparison with a network trained for longer needs; optimiser as in `decoupling`",
    variants={"small_steps": {"step_size": 0.01}},
)
@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Cross-entropy by SGD, from wherever the network starts."""

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # not Nesterov's
    weight_decay: float = 1e-4  # of everything

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network, in eval mode."""
        return fit(task, sgd(task.network, self.step_size, self.momentum, self.weight_decay))
