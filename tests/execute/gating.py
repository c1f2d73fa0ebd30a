"""A training method that attaches gates; a plugin for tests."""

from dataclasses import dataclass

import torch
from torch import nn

from bench.contract import TrainingTask, method
from bench.gating import ControllingModule, attach
from bench.ops import fit


@method(source="Li et al. 2020, arXiv:1906.01166", differs="no losses but cross-entropy")
@dataclass(frozen=True, kw_only=True)
class Gating:
    """Gates that are trained with the network."""

    def rebuild(self, network: nn.Module, num_classes: int) -> nn.Module:
        """The network with its gates."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            attach(network, lambda name, conv: ControllingModule(conv.in_channels, conv.out_channels))
        return network

    def train(self, task: TrainingTask) -> nn.Module:
        """Return the gated network, in eval mode."""
        network = self.rebuild(task.network, task.num_classes)
        return fit(task.replace(network=network), torch.optim.SGD(network.parameters(), lr=0.01))
