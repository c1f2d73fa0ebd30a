"""SGD that pulls weights towards bounded orthogonal matrices (Bort), inside the momentum."""

from dataclasses import dataclass

from torch import nn

from bench.contract import TrainingTask, method
from methods.training import _bort as optimisers
from methods.training._bort_training import fit_and_report, groups_for


@method(
    source="Zhang et al. 2023, arXiv:2212.09062; update rule and choice of weights as in the authors' public code",
    differs="gamma is ours: the paper's could not be confirmed; no decay of constrained weights; grouped kernels as"
    " batches of matrices; in_proj_weight and transposed convolutions constrained too. With amplitude 1 and l2-full"
    " it equals SGD with soft orthogonality (Bansal et al. 2018) at gamma / 4",
    variants={
        "orthogonal_init": {"init": "orthogonal"},
        "l2_row": {"mode": "l2-row"},  # boundedness alone
        "equal_decay": {"constrained_decay": 5e-4},  # as `sgd` decays: the target is then 1 − decay / gamma
    },
)
@dataclass(frozen=True, kw_only=True)
class BortSGD:
    """Cross-entropy by SGD with g ← g + γ Δ(W); all else as ``sgd``."""

    step_size: float = 0.1  # at the end of the warm-up; also scales the correction
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 5e-4  # of matrices that are not constrained
    constrained_decay: float = 0.0  # of those that are
    gamma: float = 0.1  # weight of the constraint
    amplitude: float | str = 1.0  # target of squared singular values, or "ada"
    mode: str = "l2-full"  # or l2-row, l2-col, l1-fullrow, l1-fullcol, l1-row, l1-col
    split_qkv: bool = False  # query, key and value as three matrices
    head: bool = True  # constrain the classifier's last layer too
    init: str = "default"  # or "orthogonal": start on the constraint

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network, in eval mode; the log ends with each layer's distance from orthogonality."""
        optimiser = optimisers.BortSGD(
            groups_for(task, self), lr=self.step_size, momentum=self.momentum, nesterov=True
        )  # fmt: skip
        return fit_and_report(task, optimiser, self)
