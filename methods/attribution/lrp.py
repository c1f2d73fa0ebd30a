"""The label's logit, handed back from layer to layer to what each unit was made of."""

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from zennit import types
from zennit.composites import EpsilonGammaBox, EpsilonPlus
from zennit.core import Composite
from zennit.layer import Sum

from bench.contract import AttributionTask, method
from methods.attribution import _gradient

WEIGHTED = (nn.Conv2d, nn.Linear)  # by a rule of zennit's composite; so are pools and sums
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)
PASSED_ON = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
# Functions whose gradient already is their rule: they move, pick or keep their inputs, and a ReLU's zeros have none.
FUNCTIONS = ("add", "iadd", "add_", "cat", "flatten", "getitem", "max_pool2d", "pad", "relu", "relu_")


@method(
    source="Bach et al. 2015, doi:10.1371/journal.pone.0130140; rules as in Montavon et al. 2019, section 10.3,"
    " doi:10.1007/978-3-030-28954-6_10; zennit 0.5",
    differs="batch norms are folded and additions found in the traced network, for zennit's own canonizers know"
    " torchvision's networks alone",
    variants={"z_plus": {"rule": "z_plus"}},
)
@dataclass(frozen=True, kw_only=True)
class LRP:
    """Relevance of the normalised input, summed over channels, with its sign: it starts as the label's logit.

    The box rule, for intensities in [0, 1], in the first layer if it is a convolution; the γ rule in the other
    convolutions; the ε rule in linear layers; in proportion in sums and mean pools; to the winner in max pools. With
    ``rule="z_plus"``, the z⁺ rule in all convolutions. A map sums to the logit but for what biases keep.
    """

    rule: Literal["gamma", "z_plus"] = "gamma"
    gamma: float = 0.25  # how much positive weights count more in the γ rule
    epsilon: float = 1e-6  # added to the size of what the ε rule divides by

    def why_not(self, task: AttributionTask) -> str | None:
        """It needs a forward and a backward pass, and a rule for all that the network does."""
        return _gradient.too_dear(task, passes=2) or _no_rule(task.model.network)

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps, negative where a pixel speaks against the label; costs 2 passes an image."""
        inputs = task.model.normalise(task.images).detach().requires_grad_()
        subject = copy.deepcopy(task.model)  # the rules hang on modules, and the subject's own stay as they are
        subject.network, subject.passes = canonised(task.model.network), task.model.passes
        subject.normalise = lambda images: images  # done: relevance belongs to what the network itself takes
        with self._rules(task).context(subject.network):
            logits = subject(inputs)
            start = logits.detach() * nn.functional.one_hot(task.labels, logits.shape[1])
            (relevance,) = torch.autograd.grad(logits, inputs, start)
        return relevance.sum(1)

    def _rules(self, task: AttributionTask) -> Composite:
        if self.rule == "z_plus":
            return EpsilonPlus(epsilon=self.epsilon)
        black = torch.zeros(1, *task.model.image_shape, device=task.device)
        low, high = task.model.normalise(black), task.model.normalise(black + 1)
        return EpsilonGammaBox(low, high, epsilon=self.epsilon, gamma=self.gamma)


def canonised(network: nn.Module) -> fx.GraphModule:
    """A copy that computes the same by layers that have rules: batch norms folded away, additions as modules."""
    traced = fx.symbolic_trace(copy.deepcopy(network))
    for node in list(traced.graph.nodes):
        if _is_a(node, traced, BATCH_NORM):
            _fold(node, traced)
        elif _is_addition(node):
            _make_module(node, traced)
    traced.graph.lint()
    traced.recompile()
    return traced


def _fold(norm: fx.Node, traced: fx.GraphModule) -> None:
    """Take the batch norm into the layer before it."""
    layer = norm.args[0]
    weighted, fitting = traced.get_submodule(layer.target), traced.get_submodule(norm.target)
    fuse = fuse_linear_bn_eval if isinstance(weighted, nn.Linear) else fuse_conv_bn_eval
    traced.set_submodule(layer.target, fuse(weighted, fitting))
    norm.replace_all_uses_with(layer)
    traced.graph.erase_node(norm)


def _make_module(addition: fx.Node, traced: fx.GraphModule) -> None:
    """Let zennit's ``Sum`` add: rules are for modules."""
    name = f"{addition.name}_sum"
    traced.add_submodule(name, Sum())
    with traced.graph.inserting_before(addition):
        both = traced.graph.call_function(torch.stack, (list(addition.args),), {"dim": -1})
        total = traced.graph.call_module(name, (both,))
    addition.replace_all_uses_with(total)
    traced.graph.erase_node(addition)


def _no_rule(network: nn.Module) -> str | None:
    """The reason why some part of the network has no rule, if there is one."""
    parts = {type(module).__name__ for module in network.modules()}
    if any("Attention" in part for part in parts):
        return "has no rule for attention"
    try:
        graph = fx.Tracer().trace(network)
    except Exception as problem:  # whatever a network does that depends on its input's values
        return f"needs a network that torch.fx can trace: {type(problem).__name__}"
    unknown = next((_name(node, network) for node in graph.nodes if not _has_rule(node, network)), None)
    if unknown:
        return f"has no rule for {unknown}"
    uses = Counter(node.target for node in graph.nodes if _is_a(node, network, (*WEIGHTED, types.AvgPool)))
    shared = next((name for name, count in uses.items() if count > 1), None)
    return f"has no rule for a layer that is used twice, {shared} is" if shared else None


def _has_rule(node: fx.Node, network: nn.Module) -> bool:
    if node.op in ("call_function", "call_method"):
        return _called(node) in FUNCTIONS
    if _is_a(node, network, BATCH_NORM):  # only what can be folded
        return _is_a(node.args[0], network, WEIGHTED) and len(node.args[0].users) == 1
    known = (*WEIGHTED, *PASSED_ON, types.AvgPool, types.MaxPool)
    return node.op in ("placeholder", "output") or _is_a(node, network, known)


def _is_a(node: fx.Node, network: nn.Module, kinds: tuple[type, ...]) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(node.target), kinds)


def _is_addition(node: fx.Node) -> bool:
    """Whether two tensors are added."""
    both = len(node.args) == 2 and all(isinstance(arg, fx.Node) for arg in node.args)
    return both and node.op in ("call_function", "call_method") and _called(node) in ("add", "iadd", "add_")


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else node.target.__name__


def _name(node: fx.Node, network: nn.Module) -> str:
    """What a reader would call the part."""
    return type(network.get_submodule(node.target)).__name__ if node.op == "call_module" else _called(node)
