"""Adam with decoupled weight decay: what vision transformers are trained with."""

from dataclasses import dataclass

import torch
from torch import nn

from bench.contract import TrainingTask, method
from bench.ops import fit, parameters_with_decay


@method(
    source="Loshchilov & Hutter 2019, algorithm 2, arXiv:1711.05101; decay as in DeiT, Touvron et al. 2021, table 9,"
    " arXiv:2012.12877",
    differs="no decay of biases and normalisation",
)
@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Cross-entropy by AdamW; schedule, augmentation and epochs come from the task's recipe."""

    step_size: float = 1e-3  # at the end of the warm-up
    weight_decay: float = 0.05  # of matrices and kernels, a step: step_size × weight_decay
    beta1: float = 0.9  # memory of the gradient's mean
    beta2: float = 0.999  # memory of its square

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network, in eval mode."""
        optimiser = torch.optim.AdamW(
            parameters_with_decay(task.network, self.weight_decay),
            lr=self.step_size,
            betas=(self.beta1, self.beta2),
        )
        return fit(task, optimiser)
