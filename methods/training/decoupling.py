"""Bits that say which filters an image needs: few of them, aligned with the filters' outputs, and telling its class."""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from bench.contract import SetupError, TrainingTask, method, seed_for
from bench.gating import ControllingModule, GatedLayer, Seen, attach, gated_layers, multiply_adds, watched
from bench.gating.gates import check_controlling
from bench.ops import fit, places_of_step
from methods.training._decoupling_losses import (
    Direction,
    Mean,
    alignment_loss,
    budget_loss,
    information_loss,
    sparsity_loss,
)
from methods.training._gated import sgd, why_no_gates, with_gates

SHORT = {"step_size": 0.05, "first_score": 2.0, "budget": 0.65, "sparsity": 2.0}
THROUGH = SHORT | {"estimator": "straight_through_sigmoid", "first_score": 1.0, "information": 0.02}
RATE = {"step_size": 0.05, "first_score": 2.0, "target_rate": 0.7, "sparsity": 0.01}


@method(
    source="Li et al. 2020, arXiv:1906.01166; settings, losses and modules as restated from two anonymous public"
    " releases under the paper's titles, because the paper's own could not be read. Published values: not available",
    differs="each value is hard by a coin of its own (the 2020 release addresses the batch axis, surely a defect);"
    " warm-up and cosine schedule instead of steps; the last epoch, not the best on test images",
    variants={
        # the releases' settings; the defaults are those for ResNet-56
        "official_vggnet": {"information": 0.04, "sparsity": 2e-4, "direction": "gate_to_output"},
        "official_googlenet": {"information": 0.006, "sparsity": 5e-5},
        "official_resnet18": {"step_size": 0.01, "information": 0.005, "sparsity": 0.01, "target_rate": 0.6},
        "official_vgg16": {
            "step_size": 0.01,
            "information": 0.01,
            "sparsity": 0.01,
            "target_rate": 0.5,
            "direction": "gate_to_output",
        },
        # for few epochs: all filters on at the start, and a budget that layers share [ours]
        "budget_65": SHORT,
        "budget_50": SHORT | {"budget": 0.5},
        "no_information": SHORT | {"information": 0.0},
        "no_alignment": SHORT | {"alignment": 0.0},
        "no_sparsity": SHORT | {"sparsity": 0.0},
        "rate_70": RATE,
        "straight_through": THROUGH,
        "straight_through_no_information": THROUGH | {"information": 0.0},
    },
)
@dataclass(frozen=True, kw_only=True)
class Decoupling:
    """Cross-entropy + λ_m Σ information + λ_k Σ alignment + λ_s Σ sparsity over gated layers, by SGD [code-20]."""

    step_size: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9  # not Nesterov's
    weight_decay: float = 1e-4  # of everything
    information: float = 0.01  # λ_m, of the class read from the bits
    alignment: float = 1.0  # λ_k, of filters' outputs with the bits
    sparsity: float = 1.5e-4  # λ_s
    target_rate: float = 0.0  # R, the share of filters that should be on; 0 is a plain L1 norm
    budget: float | None = None  # instead of a rate for every layer, multiply-adds over the dense network's [ours]
    reduction: float = 4  # hidden width of a module: its input's channels over this
    estimator: str = "semantic_hashing"  # or straight_through_sigmoid, gumbel_sigmoid, hard_concrete
    first_score: float | None = None  # every filter's at the start; None: the releases' start, a quarter is off
    mix: str = "entry"  # which values are hard in training: "entry", or "channel" as in the 2019 release
    direction: Direction = "output_to_gate"  # of the divergence; or "gate_to_output"
    mean: Mean = "elements"  # the divergence's sum over N · C, or over "samples"

    def __post_init__(self) -> None:
        check_controlling(reduction=self.reduction, estimator=self.estimator, mix=self.mix)
        if not 0 <= self.target_rate <= 1:
            raise SetupError(f"target_rate should be in [0, 1], got {self.target_rate}", "it is a share of filters")
        if self.budget is not None and not 0 < self.budget <= 1:
            raise SetupError(f"budget should be in (0, 1], got {self.budget}", "it is a share of the multiply-adds")
        for name in ("information", "alignment", "sparsity"):
            if not getattr(self, name) >= 0:
                raise SetupError(f"{name} should not be negative, got {getattr(self, name)}", "0 leaves the loss out")
        for name, known in (("direction", Direction), ("mean", Mean)):
            if getattr(self, name) not in get_args(known):
                raise SetupError(f"no {name} {getattr(self, name)!r}", f"there are: {', '.join(get_args(known))}")

    def why_not(self, task: TrainingTask) -> str | None:
        """Needs convolutions behind the stem."""
        return why_no_gates(task.network, self._gate)

    def rebuild(self, network: nn.Module, num_classes: int) -> nn.Module:
        """Return the untrained network with modules, in place."""
        attach(network, self._gate)
        return network

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the network with its modules, in eval mode; the log has each epoch's losses and on-rates."""
        network, layers = with_gates(task, self._gate)
        add_heads(layers, task.num_classes, seed_for(task.seed, "heads"))
        network.to(task.device)
        with watched(network) as seen:
            trained = fit(
                task.replace(network=network),
                sgd(network, self.step_size, self.momentum, self.weight_decay),
                penalty=_Penalty(self, task, layers, seen),
            )
        for layer in gated_layers(trained).values():  # a running mean has copies of its own
            del layer.class_head
        return trained

    def _gate(self, name: str, conv: nn.Conv2d) -> ControllingModule:
        return ControllingModule(
            conv.in_channels,
            conv.out_channels,
            reduction=self.reduction,
            estimator=self.estimator,
            mix=self.mix,
            first_score=self.first_score,
        )


def add_heads(layers: dict[str, GatedLayer], num_classes: int, seed: int) -> None:
    """Give each layer, for the training, what reads the class from its gates: K × C, without bias [code-20]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers.values():
            layer.class_head = nn.Linear(layer.conv.out_channels, num_classes, bias=False)
            nn.init.kaiming_normal_(layer.class_head.weight)


class _Penalty:
    """What is added to each batch's cross-entropy, and what the log says of it at the end of each epoch."""

    def __init__(
        self, settings: Decoupling, task: TrainingTask, layers: dict[str, GatedLayer], seen: dict[str, Seen]
    ) -> None:
        self.settings, self.task, self.layers, self.seen = settings, task, layers, seen
        _, channels, height, width = task.images.shape
        self.cost = multiply_adds(task.network, (channels, height, width))
        self.steps_an_epoch = max(1, len(task.images) // task.recipe.batch_size)
        self.steps = task.recipe.epochs * self.steps_an_epoch

    def __call__(self, network: nn.Module, share: float) -> Tensor:
        """() weighted sum of the three losses of the batch that the network has just seen."""
        settings, step = self.settings, round(share * self.steps)
        labels = self.task.labels[places_of_step(self.task, step)].to(self.task.device)
        shown = [(self.layers[name], seen) for name, seen in self.seen.items()]
        losses = {
            "information": [information_loss(s.gates, layer.class_head.weight, labels) for layer, s in shown],  # type: ignore[union-attr, arg-type]
            "alignment": [alignment_loss(s.pooled, s.gates, settings.direction, settings.mean) for _, s in shown],
            "sparsity": [sparsity_loss(s.gates, settings.target_rate) for _, s in shown]
            if settings.budget is None
            else [budget_loss(self.cost, {name: seen.gates for name, seen in self.seen.items()}, settings.budget)],
        }
        sums = {name: torch.stack(parts).sum() for name, parts in losses.items()}
        if (step + 1) % self.steps_an_epoch == 0:
            self._log(sums)
        return torch.stack([getattr(settings, name) * loss for name, loss in sums.items()]).sum()

    def _log(self, losses: dict[str, Tensor]) -> None:
        """One line for all layers, one for each; the only wait for the device."""
        self.task.note("; ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items()))
        for name, seen in self.seen.items():
            on, size = (seen.scores > 0).float(), seen.scores.abs()
            constant = ((on.mean(0) > 0.99) | (on.mean(0) < 0.01)).float().mean()
            self.task.note(f"  {name}: on {on.mean():.3f}, constant {constant:.3f}, |z| {size.mean():.2f}")
