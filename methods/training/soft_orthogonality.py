"""SGD with soft orthogonality (SO): the squared distance of Wᵀ W from the identity is added to the loss."""

from dataclasses import dataclass

from torch import Tensor, nn

from bench.contract import TrainingTask, method
from methods.training._bort_correction import residual
from methods.training._orthogonality import train_with_penalty


def soft_orthogonality(matrices: Tensor) -> Tensor:
    """() sum over (blocks, n, m) matrices of ‖Wᵀ W − I‖², Frobenius.

    It is taken from the smaller Gram matrix; for wide W, Wᵀ W has m − n more eigenvalues, all 0, each worth 1.
    """
    blocks, rows, columns = matrices.shape
    return residual(matrices, 1.0, "l2-full").square().sum() + blocks * max(0, columns - rows)


@method(
    source="Bansal et al. 2018, soft orthogonality, arXiv:1810.09102",
    differs="strength [our choice]: γ / 4 of bort_sgd, whose update this is with equal settings [derived, tested]; no"
    " schedule of the strength [our choice], the authors' annealing by shares of the run is a variant [code]; weights"
    " and their decay as in bort_sgd [our choice]",
    variants={
        "annealed": {"annealed": True, "strength": 0.01},  # the strength that [code] begins SRIP with
        "strong": {"strength": 0.1},
        "equal_decay": {"constrained_decay": 5e-4},  # as `sgd` decays
    },
)
@dataclass(frozen=True, kw_only=True)
class SoftOrthogonality:
    """SGD on cross-entropy + strength × Σ ‖Wᵀ W − I‖² over kernels and matrices; all else as ``sgd``."""

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 5e-4  # of matrices that are not constrained
    constrained_decay: float = 0.0  # of those that are
    strength: float = 0.025  # λ
    annealed: bool = False  # strength × 1e-3, 1e-4, 1e-6, 0 from 10, 25, 35, 60 % of the run on
    split_qkv: bool = False  # query, key and value as three matrices
    head: bool = True  # constrain the classifier's last layer too

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network, in eval mode."""
        return train_with_penalty(task, self, soft_orthogonality)
