"""Predict each filter's saliency from the layer's input, keep the largest and scale them by it."""

from dataclasses import dataclass

from torch import Tensor, nn

from bench.contract import SetupError, TrainingTask, method
from bench.gating import SalienceGate, attach, watched
from bench.ops import fit
from methods.training._gated import sgd, why_no_gates, with_gates


@method(
    source="Gao et al. 2019 (feature boosting and suppression), sections 3.2 and 3.3, arXiv:1810.05331",
    differs="attached where decoupling gates, behind the ReLU (never negative, a saliency may as well stand there); the"
    " batch norm keeps its scale; the lasso is on the saliencies that win; the share kept is the same from the first"
    " step; optimiser and epochs as in `decoupling`",
    variants={"keep_80": {"keep": 0.8}, "keep_75": {"keep": 0.75}, "keep_60": {"keep": 0.6}, "keep_50": {"keep": 0.5}},
)
@dataclass(frozen=True, kw_only=True)
class FeatureBoosting:
    """Cross-entropy + λ Σ saliencies by SGD."""

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # not Nesterov's
    weight_decay: float = 1e-4  # of everything
    keep: float = 0.7  # share of each layer's filters that an image uses, rounded up
    lasso: float = 1e-8  # λ, on the mean over images of the sum over filters

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise SetupError(f"keep should be in (0, 1], got {self.keep}", "it is a share of filters")
        if not self.lasso >= 0:
            raise SetupError(f"lasso should not be negative, got {self.lasso}", "0 leaves it out")

    def why_not(self, task: TrainingTask) -> str | None:
        """Needs convolutions behind the stem."""
        return why_no_gates(task.network, self._gate)

    def rebuild(self, network: nn.Module, num_classes: int) -> nn.Module:
        """Return the untrained network with its gates, in place."""
        attach(network, self._gate)
        return network

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the network with its gates, in eval mode."""
        network, _ = with_gates(task, self._gate)
        network.to(task.device)
        with watched(network) as seen:

            def penalty(network: nn.Module, share: float) -> Tensor:
                total: Tensor = sum(shown.gates.sum(1).mean() for shown in seen.values())  # type: ignore[assignment]
                return self.lasso * total

            optimiser = sgd(network, self.step_size, self.momentum, self.weight_decay)
            return fit(task, optimiser, penalty=penalty)

    def _gate(self, name: str, conv: nn.Conv2d) -> SalienceGate:
        return SalienceGate(conv.in_channels, conv.out_channels, keep=self.keep)
