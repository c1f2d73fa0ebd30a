"""SGD on the orthogonal matrices themselves: each weight is computed by torch's orthogonal parametrization."""

from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.nn.utils import parametrizations

from bench.contract import TrainingTask, method
from methods.training._parametrized import train_parametrized


@method(
    source="Lezcano-Casado 2019, arXiv:1909.09501; torch.nn.utils.parametrizations.orthogonal",
    differs="kernels as (n, m) matrices, grouped ones as a batch, where torch would take each k × k window for one; the"
    " Cayley map for all shapes [our choice], the quickest of the three [measured]; weights as in bort_sgd [our"
    " choice]; no decay beneath, which would pull towards the start; folded into plain layers at the end",
    variants={"householder": {"orthogonal_map": "householder"}, "matrix_exp": {"orthogonal_map": "matrix_exp"}},
)
@dataclass(frozen=True, kw_only=True)
class ParametrizedOrthogonal:
    """SGD on cross-entropy with orthonormal rows (wide weights) or columns (tall); all else as ``sgd``.

    A step costs O(max(n, m)³) for each weight, forward and backward: on one CPU core 0.2 s for 256 × 1152 (0.8 s by
    "householder", 1.7 s by "matrix_exp") and 10 s for 512 × 4608 [measured], so it is for small networks.
    """

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 5e-4  # of matrices that are not constrained
    orthogonal_map: str = "cayley"  # or "matrix_exp" or "householder"
    split_qkv: bool = False  # query, key and value as three matrices
    head: bool = True  # constrain the classifier's last layer too

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the trained network with plain layers, in eval mode."""
        wrap = partial(parametrizations.orthogonal, orthogonal_map=self.orthogonal_map)
        selection = {"split_qkv": self.split_qkv, "head": self.head}
        return train_parametrized(task, self, wrap, selection, decay=0.0)
