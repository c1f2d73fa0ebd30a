"""Which convolutions of a network get a gate, found in its traced graph: one rule for every family.

Every convolution of one group, but not the stem: the first one of a plain stack, and all before the first branching of
a network with branches, projections of shortcuts included. The mask sits behind the batch norm, and behind the ReLU
where one follows directly [code-20].
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from bench.contract import SetupError
from bench.gating.gates import Gate
from bench.gating.layers import GatedLayer, gated_layers

MakeGate = Callable[[str, nn.Conv2d], Gate]
Source = tuple[GatedLayer | None, int]  # of so many channels
UNKNOWN = 0  # channels

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
CHANNELWISE = (*RECTIFIERS, *POOLS, nn.Dropout, nn.Dropout2d, nn.Identity)
RELU_CALLS = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
RECTIFYING_CALLS = RELU_CALLS | {F.relu6, F.leaky_relu}
POOLING_CALLS = {F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.max_pool2d}
CHANNELWISE_CALLS = RECTIFYING_CALLS | POOLING_CALLS | {F.dropout, F.dropout2d}
JOINS = {torch.cat, torch.concat}
SHAPES = {"size", "dim", "shape", getattr, operator.getitem}  # reading a shape is no branch of the network


def attach(network: nn.Module, make_gate: MakeGate) -> dict[str, GatedLayer]:
    """Put gates into a network, in place; with all of them on it computes what it did before.

    Args:
        network: traceable, without gates.
        make_gate: (path, convolution) → its gate; called in the order of execution.

    Returns:
        Path of the convolution → the gated layer that has taken its place.

    Raises:
        SetupError: it has gates already, cannot be traced, has a grouped or transposed convolution, or fewer than two
            convolutions; the modules found are named.
    """
    if gated_layers(network):
        raise SetupError("the network has gates already", "attach them to the network without")
    _check(network)
    graph = _traced(network)
    modules = dict(network.named_modules())
    convs = [node for node in graph.nodes if isinstance(_module(node, modules), nn.Conv2d)]
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in convs:
        if calls.count(node.target) > 1:
            raise SetupError(f"{node.target} is used more than once: a gate there is not supported", "untie it")
    stem = _stem(graph, convs)
    chosen = [node for node in convs if node not in stem]
    if not chosen:
        raise SetupError(f"no convolution to gate: only the stem, {_found(network)}", "choose a deeper network")
    gates = {node: _gate(node, modules, make_gate) for node in chosen}  # may raise: the network is still whole
    layers: dict[fx.Node, GatedLayer] = {}
    ends: dict[fx.Node, fx.Node] = {}  # the last node that a layer computes → its convolution
    for node in chosen:
        layers[node], end = _gated(node, network, modules, calls, gates[node])
        ends[end] = node
    gated_ends = {end: layers[conv] for end, conv in ends.items()}
    for node, layer in layers.items():
        network.set_submodule(str(node.target), layer)
    for end, layer in gated_ends.items():
        layer.hands_on = _feeds_gates_alone(end, layers, gated_ends, modules)
    for node, layer in layers.items():
        layer.sources = _counted(_sources(node.all_input_nodes[0], gated_ends, modules), layer.conv.in_channels)
        _share_reading(node, layers, modules)
    return {str(node.target): layer for node, layer in layers.items()}


def _check(network: nn.Module) -> None:
    for name, module in network.named_modules():
        transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        if transposed or (isinstance(module, nn.Conv2d) and module.groups > 1):
            kind = type(module).__name__ if transposed else f"a convolution of {module.groups} groups"
            raise SetupError(f"{name} is {kind}: gates there are not supported", "choose another network")
    if sum(isinstance(module, nn.Conv2d) for module in network.modules()) < 2:
        raise SetupError(f"gates need two convolutions or more, there are only {_found(network)}", "choose another")


def _found(network: nn.Module) -> str:
    """The network's own layers, for a message."""
    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    shown = [f"{name} ({type(module).__name__})" for name, module in leaves if list(module.parameters())]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "") or "no layers"


def _traced(network: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(network)
    except Exception as problem:  # tracing runs the network's own code
        line = (str(problem).strip().split("\n") or [""])[0]
        raise SetupError(
            f"the network cannot be traced: {line}", "gates need a network without branches on data"
        ) from None


def _module(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules.get(str(node.target)) if node.op == "call_module" else None


def _users(node: fx.Node) -> list[fx.Node]:
    """Who takes the node's tensor, readers of its shape left out."""
    return [user for user in node.users if not (user.target in SHAPES and not _is_slice(user))]


def _is_slice(node: fx.Node) -> bool:
    """Whether the node takes a part of a tensor, as shortcuts without parameters do."""
    return node.target is operator.getitem and isinstance(node.args[1], tuple)


def _stem(graph: fx.Graph, convs: list[fx.Node]) -> set[fx.Node]:
    """All convolutions before the first branching behind the first of them, or the first of a plain stack."""
    place = {node: place for place, node in enumerate(graph.nodes)}
    first = place[convs[0]] if convs else 0  # what is done to the picture before it is no branching
    behind = [node for node in graph.nodes if node.op != "get_attr" and place[node] >= first]
    branching = next((node for node in behind if len(_users(node)) > 1), None)
    if branching is None:
        return set(convs[:1])
    return {node for node in convs if place[node] <= place[branching]}


def _gate(node: fx.Node, modules: dict[str, nn.Module], make_gate: MakeGate) -> Gate:
    """The gate of a convolution, on its device and in its mode."""
    conv = modules[str(node.target)]
    assert isinstance(conv, nn.Conv2d)
    return make_gate(str(node.target), conv).to(conv.weight.device).train(conv.training)


def _gated(
    node: fx.Node, network: nn.Module, modules: dict[str, nn.Module], calls: list[Any], gate: Gate
) -> tuple[GatedLayer, fx.Node]:
    """The layer around a convolution, and the last node whose work it does; what moved into it becomes an identity."""
    conv = modules[str(node.target)]
    assert isinstance(conv, nn.Conv2d)
    norm: nn.Module | None = None
    act: nn.Module | None = None
    moved = []
    end = node
    after = _only_user(end)
    if after is not None and isinstance(_module(after, modules), nn.BatchNorm2d) and calls.count(after.target) == 1:
        norm, end = modules[str(after.target)], after
        moved.append((_taken_out(network, str(after.target)), norm))
        after = _only_user(end)
    rectifier = _behind_joins(after)
    if rectifier is not None and _is_relu(rectifier, modules):
        act = nn.ReLU()  # the network's own may stay where it is: twice is once
    elif after is not None and isinstance(_module(after, modules), RECTIFIERS) and calls.count(after.target) == 1:
        act, end = modules[str(after.target)], after
        moved.append((_taken_out(network, str(after.target)), act))
    layer = GatedLayer(conv, norm, act, gate)
    layer.moved, layer.training = tuple(moved), conv.training
    return layer, end


def _taken_out(network: nn.Module, path: str) -> nn.Module:
    """What stands in the module's place from now on."""
    place = nn.Identity()
    network.set_submodule(path, place)
    return place


def _only_user(node: fx.Node) -> fx.Node | None:
    users = _users(node)
    return users[0] if len(users) == 1 else None


def _behind_joins(node: fx.Node | None) -> fx.Node | None:
    """A rectifier behind joined branches rectifies each of them."""
    while node is not None and node.target in JOINS:
        node = _only_user(node)
    return node


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return isinstance(_module(node, modules), nn.ReLU) or node.target in RELU_CALLS


def _is_channelwise(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return isinstance(_module(node, modules), CHANNELWISE) or node.target in CHANNELWISE_CALLS


def _is_pool(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return isinstance(_module(node, modules), POOLS) or node.target in POOLING_CALLS


def _is_join(node: fx.Node) -> bool:
    along = list(node.args[1:2]) or [node.kwargs.get("dim", 0)]
    return node.target in JOINS and along == [1] and isinstance(node.args[0], list | tuple)


def _feeds_gates_alone(
    node: fx.Node, gated: dict[fx.Node, GatedLayer], ends: dict[fx.Node, GatedLayer], modules: dict[str, nn.Module]
) -> bool:
    """Whether a layer's output reaches nothing but gated layers, through operations that keep channels apart."""

    def keeps_apart(user: fx.Node) -> bool:
        return _is_channelwise(user, modules) or (_is_join(user) and _is_told_apart(_sources(user, ends, modules)))

    users = list(node.users)
    return bool(users) and all(
        user in gated or (keeps_apart(user) and _feeds_gates_alone(user, gated, ends, modules)) for user in users
    )


def _sources(node: fx.Node, ends: dict[fx.Node, GatedLayer], modules: dict[str, nn.Module]) -> list[Source]:
    """Which gated layers a tensor's channels come from, in their order; None for channels that no gate masks."""
    while _is_channelwise(node, modules) and node not in ends:
        node = node.all_input_nodes[0]
    if node in ends:
        layer = ends[node]
        return [(layer if layer.hands_on else None, layer.conv.out_channels)]
    if _is_join(node):
        return [source for part in node.args[0] for source in _sources(part, ends, modules)]  # type: ignore[union-attr, arg-type]
    return [(None, UNKNOWN)]


def _is_told_apart(sources: list[Source]) -> bool:
    return [channels for _, channels in sources].count(UNKNOWN) < 2


def _counted(sources: list[Source], channels: int) -> tuple[Source, ...]:
    """The sources of so many channels, those included whose number was unknown."""
    if not _is_told_apart(sources):
        return ((None, channels),)  # none of them hands on
    rest = channels - sum(count for _, count in sources)
    return tuple((layer, rest if count == UNKNOWN else count) for layer, count in sources)


def _share_reading(node: fx.Node, layers: dict[fx.Node, GatedLayer], modules: dict[str, nn.Module]) -> None:
    """Behind the pool of a branch, the gate reads what the branches share [code-20]: as the first of them does."""
    shared = node.all_input_nodes[0]
    if not _is_pool(shared, modules) or len(_users(shared)) > 1:
        return
    while _is_pool(shared, modules) and len(_users(shared)) < 2:
        shared = shared.all_input_nodes[0]
    if len(_users(shared)) < 2 or not layers[node].gate.looks:
        return
    for other, layer in layers.items():  # in the order of execution
        if other is node:
            return
        if other.all_input_nodes[0] is shared and not layer.lends:
            layer.lends = True
            layers[node].reads_of = (layer,)
            return
