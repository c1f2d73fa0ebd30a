"""A training method that returns a network with other modules than it got; a plugin for tests."""

from dataclasses import dataclass

import torch
from torch import nn

from bench.contract import TrainingTask, method
from bench.ops import fit


@method(
    source="nobody: it stands for methods that attach gates",
    variants={"twice": {"extra": 2}, "as_given": {"extra": 0, "learn": False}},
)
@dataclass(frozen=True, kw_only=True)
class Extending:
    """Put linear layers behind the network and train all of it."""

    extra: int = 1
    learn: bool = True

    def rebuild(self, network: nn.Module, num_classes: int) -> nn.Module:
        """The network with its further layers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            further = [nn.Linear(num_classes, num_classes) for _ in range(self.extra)]
        network.inner = nn.Sequential(network.inner, *further)
        return network

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the longer network, in eval mode."""
        network = self.rebuild(task.network, task.num_classes) if self.extra else task.network
        task = task.replace(network=network)
        return fit(task, torch.optim.SGD(network.parameters(), lr=0.1)) if self.learn else network.eval()
