"""Relevance by other code: zennit with two hooks of our own, and the rules as plain loops over numbers."""

import itertools

import torch
from torch import nn
from zennit.composites import LayerMapComposite
from zennit.core import BasicHook, Stabilizer
from zennit.layer import Sum
from zennit.rules import Pass, ZPlus
from zennit.torchvision import ResNetBottleneckCanonizer
from zennit.types import Activation, BatchNorm, Linear, MaxPool

# ---- zennit --------------------------------------------------------------------------------------------------------


def _share_of_size() -> BasicHook:
    """zennit's ``Norm`` for sums, with absolute values in place of the values."""
    stable = Stabilizer.ensure(1e-30)
    return BasicHook(
        input_modifiers=[torch.abs],
        gradient_mapper=lambda above, outputs: [above / stable(outputs[0])],
        reducer=lambda inputs, gradients: inputs[0] * gradients[0],
    )


class _Halves(BasicHook):
    """A 3×3 max pool of stride 2 passes relevance on as if it took averages of 2×2."""

    def backward(self, module, grad_input, grad_output):
        values = self.stored_tensors["input"][0].detach().clone().requires_grad_()
        with torch.enable_grad():
            means = nn.AvgPool2d(2)(values)
        (slope,) = torch.autograd.grad(means, values, grad_output[0] / (means.detach() + 1e-5))
        return (values.detach() * slope,)

    def copy(self):
        return _Halves()


def by_zennit(network, inputs, target, at, start):
    """Path → relevance, for normalised inputs and ``start(output)``, the relevance of the target's output."""
    composite = LayerMapComposite(
        [
            (Activation, Pass()),
            (BatchNorm, Pass()),
            (Linear, ZPlus(stabilizer=1e-5, zero_params="bias")),  # what zennit calls linear: convolutions too
            (MaxPool, _Halves()),
            (Sum, _share_of_size()),
        ],
        canonizers=[ResNetBottleneckCanonizer()],
    )
    seen = {}
    with composite.context(network):
        handles = [
            network.get_submodule(path).register_forward_hook(lambda m, a, out, path=path: seen.__setitem__(path, out))
            for path in (target, *at)
        ]
        try:
            network(inputs.clone().requires_grad_())
            found = torch.autograd.grad(seen[target], [seen[path] for path in at], start(seen[target]).detach())
        finally:
            for handle in handles:
                handle.remove()
    return dict(zip(at, found, strict=True))


# ---- loops: one image; lists of numbers in, tensors out -------------------------------------------------------------

EPSILON = 1e-5


def convolution(relevance, values, weight, stride, padding):
    """z⁺ for inputs of any sign: who pushes an output up gets its part of that output's relevance."""
    found = torch.zeros_like(values)
    for o, y, x in itertools.product(*map(range, relevance.shape)):
        pushes = {}
        for c, i, j in itertools.product(*map(range, weight.shape[1:])):
            row, column = y * stride + i - padding, x * stride + j - padding
            if 0 <= row < values.shape[1] and 0 <= column < values.shape[2]:
                pushes[c, row, column] = max(0.0, (values[c, row, column] * weight[o, c, i, j]).item())
        total = sum(pushes.values()) + EPSILON
        for place, push in pushes.items():
            found[place] += relevance[o, y, x] * push / total
    return found


def depthwise(relevance, values, weight, stride, padding):
    """The square of each weight that lies on the image, whatever the input."""
    found = torch.zeros_like(values)
    for o, y, x in itertools.product(*map(range, relevance.shape)):
        squares, norm = {}, (weight[o] ** 2).sum().item()
        for i, j in itertools.product(range(weight.shape[2]), range(weight.shape[3])):
            row, column = y * stride + i - padding, x * stride + j - padding
            if 0 <= row < values.shape[1] and 0 <= column < values.shape[2]:
                squares[o, row, column] = weight[o, 0, i, j].item() ** 2 / norm
        total = sum(squares.values()) + EPSILON
        for place, square in squares.items():
            found[place] += relevance[o, y, x] * square / total
    return found


def averages(relevance, values, window, stride, padding):
    """Each place of a window by its part of the window's mean, of which the padding is a part."""
    found = torch.zeros_like(values)
    for c, y, x in itertools.product(*map(range, relevance.shape)):
        places = [(c, y * stride + i - padding, x * stride + j - padding) for i in range(window) for j in range(window)]
        inside = [p for p in places if 0 <= p[1] < values.shape[1] and 0 <= p[2] < values.shape[2]]
        mean = sum(values[p].item() for p in inside) / window**2 + EPSILON
        for place in inside:
            found[place] += relevance[c, y, x] * values[place].item() / window**2 / mean
    return found


def summands(relevance, first, second):
    """Two shares, by absolute value."""
    own, rest = torch.zeros_like(first), torch.zeros_like(first)
    for place in itertools.product(*map(range, relevance.shape)):
        one, other = abs(first[place].item()), abs(second[place].item())
        share = 0.5 if one + other == 0 else one / (one + other)
        own[place], rest[place] = share * relevance[place], (1 - share) * relevance[place]
    return own, rest
