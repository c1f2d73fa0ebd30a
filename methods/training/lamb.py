"""Layer-wise adaptive moments (LAMB): Adam's step, rescaled to each weight's own length."""

from dataclasses import dataclass

from timm.optim.lamb import Lamb as TimmLamb
from torch import nn

from bench.contract import TrainingTask, method
from bench.ops import fit, parameters_with_decay


@method(
    source="You et al. 2020, algorithm 2, arXiv:1904.00962; timm's Lamb",
    differs="no decay and, as timm has it, no rescaling of biases and normalisation; all gradients together clipped to"
    " a norm of 1 as timm does; settings as in bort_lamb",
)
@dataclass(frozen=True, kw_only=True)
class Lamb:
    """Cross-entropy by LAMB; schedule, augmentation and epochs come from the task's recipe."""

    step_size: float = 5e-3  # at the end of the warm-up
    weight_decay: float = 0.02  # of matrices and kernels, inside the rescaled step
    beta1: float = 0.9  # memory of the gradient's mean
    beta2: float = 0.999  # memory of its square

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network, in eval mode."""
        optimiser = TimmLamb(
            parameters_with_decay(task.network, self.weight_decay),
            lr=self.step_size,
            betas=(self.beta1, self.beta2),
        )
        return fit(task, optimiser)
