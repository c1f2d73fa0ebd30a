"""LAMB that pulls weights towards bounded orthogonal matrices (Bort), outside its trust ratio."""

from dataclasses import dataclass

from torch import nn

from bench.contract import TrainingTask, method
from methods.training import _bort_lamb as optimisers
from methods.training._bort_training import fit_and_report, groups_for


@method(
    source="Zhang et al. 2023, arXiv:2212.09062, with LAMB of You et al. 2020, algorithm 2, arXiv:1904.00962",
    differs="how LAMB and the constraint meet is ours: no rule was found, and decay and correction are those of"
    " bort_adamw, outside the trust ratio, which constrained weights keep without decay; gamma is ours",
    variants={
        "orthogonal_init": {"init": "orthogonal"},
        "l2_row": {"mode": "l2-row"},  # boundedness alone
        "strong": {"gamma": 10.0},  # step size × gamma of 0.05
    },
)
@dataclass(frozen=True, kw_only=True)
class BortLamb:
    """Cross-entropy by timm's LAMB with W ← W − step size · γ Δ(W) before each step."""

    step_size: float = 5e-3  # at the end of the warm-up; also scales the correction
    beta1: float = 0.9  # memory of the gradient's mean
    beta2: float = 0.999  # memory of its square
    weight_decay: float = 0.02  # of matrices that are not constrained
    constrained_decay: float = 0.0  # of those that are
    gamma: float = 1.0  # weight of the constraint
    amplitude: float | str = 1.0  # target of squared singular values, or "ada"
    mode: str = "l2-full"  # or l2-row, l2-col, l1-fullrow, l1-fullcol, l1-row, l1-col
    split_qkv: bool = False  # query, key and value as three matrices
    head: bool = True  # constrain the classifier's last layer too
    init: str = "default"  # or "orthogonal": start on the constraint

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network, in eval mode; the log ends with each layer's distance from orthogonality."""
        betas = (self.beta1, self.beta2)
        optimiser = optimisers.BortLamb(groups_for(task, self), lr=self.step_size, betas=betas)
        return fit_and_report(task, optimiser, self)
