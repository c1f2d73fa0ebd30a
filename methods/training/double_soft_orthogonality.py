"""SGD with double soft orthogonality (DSO): the distances of both Wᵀ W and W Wᵀ from identities are added."""

from dataclasses import dataclass

from torch import Tensor, nn

from bench.contract import TrainingTask, method
from methods.training._bort_correction import residual
from methods.training._orthogonality import train_with_penalty


def double_soft_orthogonality(matrices: Tensor) -> Tensor:
    """() sum over (blocks, n, m) matrices of ‖Wᵀ W − I‖² + ‖W Wᵀ − I‖², Frobenius.

    The two differ by the constant |n − m|, the larger Gram matrix's further eigenvalues being 0 [derived].
    """
    blocks, rows, columns = matrices.shape
    return 2 * residual(matrices, 1.0, "l2-full").square().sum() + blocks * abs(rows - columns)


@method(
    source="Bansal et al. 2018, double soft orthogonality, arXiv:1810.09102",
    differs="its gradient is that of soft_orthogonality at twice the strength, and of bort_sgd at γ = 8 × strength"
    " [derived, tested]; strength [our choice]: soft_orthogonality's, so that it pulls twice as hard; no schedule of"
    " the strength [our choice], the authors' annealing by shares of the run is a variant [code]; weights and their"
    " decay as in bort_sgd [our choice]",
    variants={
        "annealed": {"annealed": True, "strength": 0.01},  # the strength that [code] begins SRIP with
        "equal_decay": {"constrained_decay": 5e-4},  # as `sgd` decays
    },
)
@dataclass(frozen=True, kw_only=True)
class DoubleSoftOrthogonality:
    """SGD on cross-entropy + strength × Σ (‖Wᵀ W − I‖² + ‖W Wᵀ − I‖²) over kernels and matrices; else as ``sgd``."""

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
        return train_with_penalty(task, self, double_soft_orthogonality)
