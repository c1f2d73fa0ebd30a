"""SGD with spectral restricted isometry (SRIP): the largest |σ² − 1| of each weight is added to the loss, squared."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import TrainingTask, method
from methods.training._bort_correction import residual
from methods.training._orthogonality import train_with_penalty


def spectral_isometry(matrices: Tensor, *, iterations: int, squared: bool) -> Tensor:
    """() sum over (blocks, n, m) matrices of σ(A)² or σ(A), A the smaller of Wᵀ W and W Wᵀ, minus I.

    σ(A) = max |σ_i(W)² − 1| is estimated from below by ‖A v‖, where v is what ``iterations`` of v ← A v / ‖A v‖ make
    of a uniform random start; the gradient goes through the iterations too [code].
    """
    apart = residual(matrices, 1.0, "l2-full")  # (blocks, k, k)
    # drawn on the CPU from the generator that `fit` seeds for each step and puts back
    vector = torch.rand(*apart.shape[:2], 1).to(apart)
    for _ in range(iterations):
        vector = F.normalize(apart @ vector, dim=1)
    moved = apart @ vector
    return moved.square().sum() if squared else torch.linalg.vector_norm(moved, dim=1).sum()


@method(
    source="Bansal et al. 2018, spectral restricted isometry property, arXiv:1810.09102; one power iteration, uniform"
    " start, smaller Gram matrix and the square as in their code for wide residual networks [code]",
    differs="their strength [code] without their annealing [our choice], which is a variant by shares of the run; their"
    " code for residual networks does not square, and takes W Wᵀ for tall W too [code], where σ(W Wᵀ − I) ≥ 1; weights"
    " and their decay as in bort_sgd [our choice]",
    variants={
        "annealed": {"annealed": True},
        "not_squared": {"squared": False},  # λ σ(Wᵀ W − I), a pull that does not fade at the constraint
        "strong": {"strength": 0.1},
        "equal_decay": {"constrained_decay": 5e-4},  # as `sgd` decays
    },
)
@dataclass(frozen=True, kw_only=True)
class SRIP:
    """SGD on cross-entropy + strength × Σ σ(Wᵀ W − I)² over kernels and matrices; all else as ``sgd``."""

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 5e-4  # of matrices that are not constrained
    constrained_decay: float = 0.0  # of those that are
    strength: float = 0.01  # λ [code]
    annealed: bool = False  # strength × 1e-3, 1e-4, 1e-6, 0 from 10, 25, 35, 60 % of the run on
    squared: bool = True  # the penalty; else σ itself
    iterations: int = 1  # of the power method [code]
    split_qkv: bool = False  # query, key and value as three matrices
    head: bool = True  # constrain the classifier's last layer too

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network, in eval mode."""

        def penalty(matrices: Tensor) -> Tensor:
            return spectral_isometry(matrices, iterations=self.iterations, squared=self.squared)

        return train_with_penalty(task, self, penalty)
