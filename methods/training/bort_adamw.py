"""AdamW that pulls weights towards bounded orthogonal matrices (Bort), beside its moments."""

from dataclasses import dataclass

from torch import nn

from bench.contract import TrainingTask, method
from methods.training import _bort as optimisers
from methods.training._bort_training import fit_and_report, groups_for


@method(
    source="Zhang et al. 2023, arXiv:2212.09062; update rule and choice of weights as in the authors' public code",
    differs="gamma is ours: the paper's could not be confirmed; no decay of constrained weights; grouped kernels as"
    " batches of matrices; in_proj_weight and transposed convolutions constrained too",
    variants={
        "orthogonal_init": {"init": "orthogonal"},
        "l2_row": {"mode": "l2-row"},  # boundedness alone
        "strong": {"gamma": 10.0},  # step size × gamma of 0.01, as in `bort_sgd`
        "equal_decay": {"constrained_decay": 0.05},  # as `adamw` decays: the target is then 1 − decay / gamma
    },
)
@dataclass(frozen=True, kw_only=True)
class BortAdamW:
    """Cross-entropy by AdamW with W ← W − step size · γ Δ(W) before each step; all else as ``adamw``."""

    step_size: float = 1e-3  # at the end of the warm-up; also scales the correction
    beta1: float = 0.9  # memory of the gradient's mean
    beta2: float = 0.999  # memory of its square
    weight_decay: float = 0.05  # of matrices that are not constrained, a step: step_size × weight_decay
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
        optimiser = optimisers.BortAdamW(groups_for(task, self), lr=self.step_size, betas=betas)
        return fit_and_report(task, optimiser, self)
