"""The dense networks that a gated one is measured against."""

import copy
from collections import Counter

from torch import fx, nn

from bench.contract import Unsupported
from bench.gating.layers import gated_layers


def dense_copy(network: nn.Module) -> nn.Module:
    """A copy in the shape before gates were attached: every filter is on, and nothing else is computed.

    Args:
        network: with or without gates; it stays as it is.
    """
    dense = copy.deepcopy(network)
    layers = gated_layers(dense)
    paths = {module: path for path, module in dense.named_modules()}
    for path, layer in layers.items():
        dense.set_submodule(path, layer.conv)
        for place, part in layer.moved:
            dense.set_submodule(paths[place], part)
    return dense


def folded_copy(network: nn.Module) -> nn.Module:
    """``dense_copy`` in eval mode, each batch norm that directly follows a convolution folded into it.

    Args:
        network: with or without gates; it stays as it is.

    Raises:
        Unsupported: it cannot be traced, so nobody knows what follows what.
    """
    dense = dense_copy(network).eval()
    for conv, norm in _followed(dense):
        before, after = dense.get_submodule(conv), dense.get_submodule(norm)
        assert isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
        dense.set_submodule(conv, nn.utils.fuse_conv_bn_eval(before, after))
        dense.set_submodule(norm, nn.Identity())
    return dense


def _followed(network: nn.Module) -> list[tuple[str, str]]:
    """Paths of convolutions, and of the batch norms that alone read what they give."""
    try:
        nodes = fx.symbolic_trace(network).graph.nodes
    except Exception as error:  # a forward function that looks at numbers: whatever it raises then
        raise Unsupported(f"cannot be traced: {error}") from error
    modules = dict(network.named_modules())
    calls = {node: str(node.target) for node in nodes if node.op == "call_module"}
    used = Counter(calls.values())
    return [
        (calls[before], path)
        for node, path in calls.items()
        if isinstance(modules[path], nn.BatchNorm2d)
        for before in node.all_input_nodes
        if before in calls and isinstance(modules[calls[before]], nn.Conv2d)
        if len(before.users) == 1 and used[path] == used[calls[before]] == 1
    ]
