"""Stochastic gradient descent with Nesterov momentum: what most published image classifiers were trained with."""

from dataclasses import dataclass

import torch
from torch import nn

from bench.contract import TrainingTask, method
from bench.ops import fit, parameters_with_decay


@method(
    source="Sutskever et al. 2013, section 2, proceedings.mlr.press/v28/sutskever13; settings as for CIFAR networks"
    " in Zagoruyko & Komodakis 2016, section 3, arXiv:1605.07146",
    differs="warm-up and cosine schedule instead of steps; no decay of biases and normalisation",
)
@dataclass(frozen=True, kw_only=True)
class SGD:
    """Cross-entropy by SGD; schedule, augmentation and epochs come from the task's recipe."""

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 5e-4  # of matrices and kernels

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network, in eval mode."""
        optimiser = torch.optim.SGD(
            parameters_with_decay(task.network, self.weight_decay),
            lr=self.step_size,
            momentum=self.momentum,
            nesterov=True,
        )
        return fit(task, optimiser)
