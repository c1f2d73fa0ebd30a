"""Multiply-adds of gated networks, counted from the bits of each image."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.gating.layers import GatedLayer, gated_layers


@dataclass(frozen=True)
class MultiplyAdds:
    """What one image costs. Bias, batch norm and pools are not counted, the classifier is [derived].

    Args:
        dense: of all convolutions and linear layers, gates left out.
        modules: of the gates.
        kernels: layer → multiply-adds of one pair of an input channel and a filter, at all positions.
    """

    dense: int
    modules: int
    kernels: Mapping[str, int]
    layers: Mapping[str, GatedLayer]

    def executed(self, bits: Mapping[str, Tensor], *, inputs: bool = True) -> Tensor:
        """(N,) float64 multiply-adds of each image when off filters are skipped, gates included.

        Args:
            bits: layer → (N, C) bool.
            inputs: off channels of a masked input are skipped too; False counts the side of the outputs alone. Inputs
                of residual blocks are sums and dense.
        """
        total: Tensor | float = float(self.dense + self.modules)
        names = {id(layer): name for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            conv = layer.conv
            filters = bits[name].double().sum(1)
            entering = torch.zeros_like(filters)
            for source, channels in layer.sources:
                entering += bits[names[id(source)]].double().sum(1) if source and inputs else channels
            total = total + self.kernels[name] * (filters * entering - conv.in_channels * conv.out_channels)
        assert isinstance(total, Tensor)
        return total


def multiply_adds(network: nn.Module, image_shape: tuple[int, int, int]) -> MultiplyAdds:
    """Count what one image of that shape costs, by sending a black one through.

    Args:
        network: takes (1, C, H, W); with or without gates; left as it was.
    """
    layers = gated_layers(network)
    gates = {id(part) for layer in layers.values() for part in layer.gate.modules()}
    positions: dict[int, int] = {}  # of a layer's output, all calls together

    def count(module: nn.Module, args: object, out: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        positions[id(module)] = positions.get(id(module), 0) + out.numel() // len(module.weight)

    counted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear) and id(m) not in gates]
    hooks = [module.register_forward_hook(count) for module in counted]
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *image_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    dense = sum(module.weight.numel() * positions.get(id(module), 0) for module in counted)
    kernels = {n: layer.conv.weight[0, 0].numel() * positions[id(layer.conv)] for n, layer in layers.items()}
    return MultiplyAdds(dense, sum(layer.gate.multiply_adds for layer in layers.values()), kernels, layers)
