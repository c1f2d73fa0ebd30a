"""What metrics of calculation paths share: which images are learned from and judged, and filters forced off."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from bench.contract import Classifier, Unsupported
from bench.gating import GatedLayer

BATCH = 100
LATE_DIGITS = 1e7  # digits of a mean intensity in [0, 1] behind these are as good as random

TOO_FEW = "two classes with two images each are needed: some to learn from and others to be judged"


def lots(images: Tensor) -> Tensor:
    """(N,) int64 places in an order that has nothing to do with that of the data: by late digits of brightness."""
    return (images.double().flatten(1).mean(1) * LATE_DIGITS).frac().argsort(stable=True)


def halves(images: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Places of images to learn from and of others to be judged: both have equally many of every class.

    Inside a class lots are drawn.

    Args:
        images: (N, C, H, W).
        labels: (N,) int64; classes with one image are left out.
        most: images of both halves together.

    Returns:
        Two times (n,) int64, class by class; n = 0 with fewer than two classes.
    """
    classes, counts = labels.unique(return_counts=True)
    classes, counts = classes[counts > 1], counts[counts > 1]
    each = min(int(counts.min()), most // len(classes)) // 2 * 2 if len(classes) > 1 else 0
    if not each:
        return labels.new_zeros(0), labels.new_zeros(0)
    drawn = lots(images)
    chosen = torch.stack([drawn[labels[drawn] == label][:each] for label in classes.tolist()])  # (K, each)
    learned, judged = chosen.chunk(2, 1)
    return learned.flatten(), judged.flatten()


# ---- filters forced off --------------------------------------------------------------------------------------------


@torch.no_grad()
def predictions_without(target: Classifier, images: Tensor, layer: str, filters: Tensor) -> Tensor:
    """(S, N) int64 predicted classes while a set of the layer's filters is off for every image.

    What does not depend on the layer is computed once for all sets: behind the last layer little is left.

    Args:
        images: (N, C, H, W) in [0, 1].
        filters: (S, C) bool.

    Raises:
        Unsupported: the network cannot be traced, so nobody knows what depends on the layer.
    """
    network = _FromLayer(target.network, layer)
    found = []
    for part in images.split(BATCH):
        network.run(target.normalise(part))
        found.append(torch.stack([network.again(off).argmax(1) for off in filters]))
    return torch.cat(found, 1)


class _Tracer(fx.Tracer):
    """Gated layers stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, GatedLayer) or super().is_leaf_module(m, module_qualified_name)


class _FromLayer(fx.Interpreter):
    """Runs a network, and then again from one of its gated layers on."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        try:
            graph = _Tracer().trace(network)
        except Exception as error:  # tracing runs the network's own code
            raise Unsupported(f"cannot be traced: {error}") from error
        super().__init__(fx.GraphModule(network, graph))
        nodes = list(self.graph.nodes)
        self.layer = next(node for node in nodes if node.op == "call_module" and node.target == layer)
        behind = {self.layer}
        for node in nodes:
            if behind & set(node.all_input_nodes):
                behind.add(node)
        behind.remove(self.layer)
        self.before = [node for node in nodes if node not in behind]
        self.wanted = {read for node in behind for read in node.all_input_nodes} - behind
        self.kept: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Keep what is read behind the layer."""
        value = super().run_node(n)
        if n in self.wanted:
            self.kept[n] = _copy(value)
        return value

    def again(self, off: Tensor) -> Tensor:
        """(N, K) logits of the latest images, without the filters in ``off``, (C,) bool."""
        known = dict.fromkeys(self.before) | {node: _copy(value) for node, value in self.kept.items()}
        known[self.layer] = known[self.layer] * ~off[:, None, None]
        logits: Tensor = self.run(initial_env=known)
        return logits


def _copy(value: Any) -> Any:
    """Networks may change a tensor in place."""
    return value.clone() if isinstance(value, Tensor) else value
