"""SGD with spectral normalisation: each weight is divided by an estimate of its largest singular value."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.utils import parametrizations

from bench.contract import TrainingTask, method
from methods.training._parametrized import OfMatrices, train_parametrized

SETTLING = 100  # power iterations after training


@method(
    source="Miyato et al. 2018, section 2.1 and algorithm 1, arXiv:1802.05957; torch.nn.utils.parametrizations",
    differs="for a classifier, its last layer included, as in bort_sgd [our choice]; no decay of the tensors beneath,"
    " whose length sets the effective step size alone [our choice]; a grouped kernel is normalised as one matrix, which"
    " bounds each group's [our choice]; 100 more power iterations before the weights are folded into plain layers",
    variants={"equal_decay": {"constrained_decay": 5e-4}},  # as `sgd` decays
)
@dataclass(frozen=True, kw_only=True)
class SpectralNorm:
    """SGD on cross-entropy with weights V / σ(V), bounded but not orthogonal; all else as ``sgd``."""

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 5e-4  # of matrices that are not constrained
    constrained_decay: float = 0.0  # of the tensors beneath those that are
    iterations: int = 1  # of the power method, a step
    head: bool = True  # constrain the classifier's last layer too

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network with plain layers, in eval mode."""
        wrap = partial(parametrizations.spectral_norm, n_power_iterations=self.iterations, dim=0)
        selection = {"head": self.head}
        return train_parametrized(task, self, wrap, selection, decay=self.constrained_decay, whole=True, settle=settle)


@torch.no_grad()
def settle(network: nn.Module) -> None:
    """Bring the estimates of σ to their end: one iteration a step lags behind, and a running mean of it more so."""
    for module in network.modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList) and isinstance(module[0], OfMatrices):
            module.train()
            for _ in range(SETTLING):
                module()
