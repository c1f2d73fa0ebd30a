"""A convolution whose filters have gates, and the ways in which a gated network can be run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.contract import SetupError, ShapeError
from bench.gating.gates import Gate, through

Edit = Callable[[Tensor], Tensor]  # (N, C) gate values → (N, C)


class Seen(NamedTuple):
    """What one layer showed in the latest forward pass."""

    scores: Tensor  # (N, C)
    gates: Tensor  # (N, C) what the filters' outputs were multiplied by
    pooled: Tensor  # (N, C) mean over positions of those outputs before


class GatedLayer(nn.Module):
    """Convolution, normalisation and activation as before, then each filter's output times its gate.

    An off filter is zero after normalisation, never a constant that the normalisation makes of a zero.

    Args:
        conv: with one group.
        norm: its batch norm in eval mode folds into it; None where there is none.
        act: None where none follows directly.
        gate: reads the mean over positions of this layer's input.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, act: nn.Module | None, gate: Gate) -> None:
        super().__init__()
        self.conv, self.gate = conv, gate
        self.norm, self.act = norm or nn.Identity(), act or nn.Identity()
        # In tuples: as attributes they would be registered as parts of this layer.
        self.sources: tuple[tuple[GatedLayer | None, int], ...] = ()  # of the input's channels, in their order
        self.reads_of: tuple[GatedLayer, ...] = ()  # the gate reads what that layer's gate read
        self.moved: tuple[tuple[nn.Module, nn.Module], ...] = ()  # (what stands in its place, part of this layer)
        self.lends = self.hands_on = False  # what its gate read, to another; outputs, only to gated layers
        self.lent: Tensor | None = None
        self.watch: Callable[[Seen], None] | None = None
        self.edit: Edit | None = None
        self.is_soft = False
        self.skip: Callable[[Tensor], Tensor] | None = None  # computes the layer instead, see ``bench.gating.skip``

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: nothing of the contexts that the network is in, which would never end for the copy."""
        return self.__dict__ | {"watch": None, "edit": None, "is_soft": False, "skip": None, "lent": None}

    def forward(self, features: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, H', W'); while skipping, channels that are off may be missing on both sides."""
        if self.skip is not None:
            return self.skip(features)
        scores, gates = self.decide(self.squeezed(features))
        h: Tensor = self.act(self.norm(self.conv(features)))
        if self.watch is not None:
            self.watch(Seen(scores, gates, h.mean((2, 3))))
        return h * gates[:, :, None, None]

    def squeezed(self, features: Tensor) -> Tensor:
        """(N, C_in) what the gate reads: the means over positions, or those that another layer has read."""
        if self.reads_of:
            (lender,) = self.reads_of
            read, lender.lent = lender.lent, None
            assert read is not None  # the lender comes first in the network
            return read
        read = features.mean((2, 3))
        if self.lends:
            self.lent = read
        return read

    def decide(self, squeezed: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C_in) → scores and gate values, each (N, C_out)."""
        scores = self.gate.scores(squeezed)
        gates = self.gate.values(scores)
        if self.is_soft and self.gate.binary:
            gates = through(gates, torch.sigmoid(scores))
        return scores, gates if self.edit is None else self.edit(gates)


def gated_layers(network: nn.Module) -> dict[str, GatedLayer]:
    """Path → each gated layer, in the order in which they were built; empty when there is none."""
    return {name: module for name, module in network.named_modules() if isinstance(module, GatedLayer)}


def require_gates(network: nn.Module) -> dict[str, GatedLayer]:
    """The gated layers; a ``SetupError`` where there is none."""
    layers = gated_layers(network)
    if not layers:
        raise SetupError("the network has no gates", "train it by a method that attaches some, such as decoupling")
    return layers


@contextmanager
def watched(network: nn.Module) -> Iterator[dict[str, Seen]]:
    """Inside, each forward pass leaves here what every gated layer showed, with its graph where it has one."""
    seen: dict[str, Seen] = {}
    watches = {name: lambda shown, name=name: seen.__setitem__(name, shown) for name in gated_layers(network)}
    with changed(network, {name: {"watch": watch} for name, watch in watches.items()}):
        yield seen


@contextmanager
def edited(network: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Inside, the gate values of each layer named are what its function makes of them.

    Raises:
        SetupError: no such layer.
    """
    layers = gated_layers(network)
    for name in edits:
        if name not in layers:
            raise SetupError(f"the network has no gated layer {name!r}", f"it has: {', '.join(layers) or 'none'}")
    with changed(network, {name: {"edit": edit} for name, edit in edits.items()}):
        yield


@contextmanager
def straight_through(network: nn.Module) -> Iterator[None]:
    """Inside, bits pass the gradient of the sigmoid of their scores on; their values are as before."""
    with changed(network, {name: {"is_soft": True} for name in gated_layers(network)}):
        yield


@contextmanager
def changed(network: nn.Module, changes: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Inside, the layers named have these attributes; afterwards those that they had."""
    layers = gated_layers(network)
    before = [(layers[name], key, getattr(layers[name], key)) for name, new in changes.items() for key in new]
    try:
        for name, new in changes.items():
            for key, value in new.items():
                setattr(layers[name], key, value)
        yield
    finally:
        for layer, key, value in before:
            setattr(layer, key, value)
        for layer in layers.values():
            layer.lent = None


def fixed_to(bits: Tensor) -> Edit:
    """An edit to the same bits for every image, whatever the gates say.

    Args:
        bits: (C,) or (N, C), 0 and 1; images beyond the N, which fill a batch, get the last row.

    Raises:
        ShapeError: when used on a layer of another width, or on fewer images.
    """

    def edit(gates: Tensor) -> Tensor:
        wanted = bits.to(gates)
        if wanted.ndim == 2 and len(wanted) < len(gates):
            wanted = torch.cat([wanted, wanted[-1:].expand(len(gates) - len(wanted), -1)])
        if wanted.shape[-1] != gates.shape[1] or (wanted.ndim == 2 and len(wanted) != len(gates)):
            raise ShapeError(f"bits should be {tuple(gates.shape)} or one row of them, got {tuple(bits.shape)}")
        return wanted.expand_as(gates)

    return edit
