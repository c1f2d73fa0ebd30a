"""Computing only the filters that are on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import SetupError
from bench.gating.gates import ControllingModule, Gate
from bench.gating.layers import GatedLayer, changed, require_gates

KERNELS_KEPT = 2**24  # bytes of one layer: kernels cut for paths that have been seen


@contextmanager
def skipping(network: nn.Module) -> Iterator[None]:
    """Inside, what is off is not computed. Logits are those of masking to 1e-4 (of the largest, where that
    exceeds 1); taps are not to be read.

    One image at a time is cut to the filters that are on, and kernels cut for a path are kept for the next image on it;
    a batch is computed path by path, layer by layer.

    Raises:
        SetupError: the network is in training mode or has no gates.
    """
    layers = require_gates(network)
    if network.training or any(layer.training for layer in layers.values()):
        raise SetupError("skip mode is for trained networks, this one is in training mode", "call eval() first")
    skips = {layer: Skip.of(layer) for layer in layers.values()}
    for layer, skip in skips.items():
        skip.sources = [(skips[source] if source else None, channels) for source, channels in layer.sources]
    with changed(network, {name: {"skip": skips[layer].run} for name, layer in layers.items()}):
        yield


class Cut(NamedTuple):
    """What is left of a layer for one path."""

    entering: Tensor | None  # places of the input's channels that are there; None for all
    on: Tensor  # (k,) places of the filters that are on
    weight: Tensor  # (k, channels that enter, h, w)
    bias: Tensor  # (k,)


class Skip:
    """One gated layer with its batch norm folded, and which of its filters the latest forward pass used.

    When there is one image, a layer whose output goes to gated layers alone hands on the channels that are on and
    nothing else; pools, activations and joins between them work channel by channel and need not know. A layer that is
    off as a whole hands on one channel of zeros, because pools refuse tensors without any.

    Args:
        layer: in eval mode.
        weight, bias: (C_out, C_in, h, w) and (C_out,), with the batch norm in them.
    """

    def __init__(self, layer: GatedLayer, weight: Tensor, bias: Tensor) -> None:
        self.layer, self.weight, self.bias = layer, weight, bias
        # Looked up once: a module's parts and a tensor's length take a microsecond each, which a small layer feels.
        self.gate, self.conv, self.act = layer.gate, layer.conv, layer.act
        self.filters, self.channels = layer.conv.out_channels, layer.conv.in_channels
        self.stride, self.padding, self.dilation = layer.conv.stride, layer.conv.padding, layer.conv.dilation
        self.pads_zeros, self.rectifies = layer.conv.padding_mode == "zeros", isinstance(layer.act, nn.ReLU)
        self.sources: list[tuple[Skip | None, int]] = []
        self.on: Tensor | None = None  # of one image, or of fixed masks: (k,) places of the filters that are on
        self.bits: Tensor | None = None  # of a batch: (N, C_out) bool
        self.score = _scorer(layer.gate)
        self.path = b""  # of one image: its bits, for the layers that read its channels
        self.cuts: dict[bytes, Cut] = {}  # by the bits that enter and those that leave: images share paths
        self.most_cuts = max(1, KERNELS_KEPT // (weight.numel() * weight.element_size()))
        self.fixed: tuple[Cut, Tensor] | None = None  # behind fixed masks: what is left, and (1, C_out) gate values

    @classmethod
    def of(cls, layer: GatedLayer) -> Skip:
        """Fold the layer's batch norm into its convolution."""
        conv = layer.conv
        if isinstance(layer.norm, nn.BatchNorm2d):
            conv = nn.utils.fuse_conv_bn_eval(conv, layer.norm)
        bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
        return cls(layer, conv.weight.detach(), bias.detach())

    def run(self, features: Tensor) -> Tensor:
        """(N, C_in or those on, H, W) → (N, C_out or those on, H', W')."""
        if self.layer.watch is not None:
            raise SetupError(
                "what gates show cannot be watched while off filters are skipped", "watch without skipping"
            )
        images = features.shape[0]
        if images and self._is_static():
            return self._masked(features)
        self.fixed = None
        return self._alone(features) if images == 1 else self._by_path(features)

    # -- one image: what a layer adds to its convolution counts in microseconds -----------------------------------

    def _alone(self, features: Tensor) -> Tensor:
        entering = self._entering()
        read = self._read(features, entering)
        gates: Tensor | None = None  # where they are more than the signs of the scores
        if self.gate.binary and self.layer.edit is None:
            off = self.score(read) <= 0
        else:
            gates = self.layer.decide(read)[1]
            off = gates == 0
        cut = self._cut(off, entering)
        h = self._convolved(features, cut.weight, cut.bias)
        return self._handed_on(h if gates is None else h * gates[:, cut.on, None, None], cut.on)

    def _entering(self) -> Tensor | None:
        """(k,) places of the input's channels that are there; None for all."""
        if len(self.sources) == 1:
            source = self.sources[0][0]
            return None if source is None else source.on
        if all(source is None for source, _ in self.sources):
            return None
        parts, first = [], 0
        for source, channels in self.sources:
            here = torch.arange(channels, device=self.weight.device) if source is None else source.on
            assert here is not None  # sources come first in the network
            parts.append(here + first)
            first += channels
        return torch.cat(parts)

    def _cut(self, off: Tensor, entering: Tensor | None) -> Cut:
        """The filters that are not off, (1, C_out) bool, for the channels that enter; once for all images of a path."""
        self.path = off.cpu().numpy().tobytes()
        key = b"".join([self.path, *[source.path for source, _ in self.sources if source is not None]])
        cut = self.cuts.get(key)
        if cut is None:
            on = off[0].logical_not().nonzero().view(-1)
            weight = self.weight.index_select(0, on)
            if entering is not None:
                weight = weight.index_select(1, entering)
            cut = Cut(entering, on, weight, self.bias.index_select(0, on))
            if len(self.cuts) >= self.most_cuts:
                self.cuts.clear()
            self.cuts[key] = cut
        return cut

    def _handed_on(self, h: Tensor, on: Tensor) -> Tensor:
        """The channels that are on; all of them, with zeros for the others, to a batch and to an addition."""
        images, filters, height, width = h.shape
        self.on = on if filters or not self.layer.hands_on else on.new_zeros(1)
        if self.layer.hands_on and images == 1:
            return h if filters else h.new_zeros(1, 1, height, width)
        if filters == self.filters:
            return h
        return h.new_zeros(images, self.filters, height, width).index_copy_(1, on, h)

    # -- fixed masks: one path for all images -----------------------------------------------------------------------

    def _is_static(self) -> bool:
        """Whether neither what enters nor what is on depends on the image."""
        return (
            self._is_fixed()
            and not self.layer.lends
            and all(source is None or source._is_fixed() for source, _ in self.sources)
        )

    def _is_fixed(self) -> bool:
        return not self.gate.looks and self.layer.edit is None

    def _masked(self, features: Tensor) -> Tensor:
        if self.fixed is None:
            gates = self.layer.decide(features.new_zeros(1, self.channels))[1]
            self.fixed = self._cut(gates == 0, self._entering()), gates
        cut, gates = self.fixed
        self.bits = (gates != 0).expand(features.shape[0], -1)
        if features.shape[0] > 1 and cut.entering is not None:
            features = features.index_select(1, cut.entering)  # a batch arrives whole
        h = self._convolved(features, cut.weight, cut.bias)
        return self._handed_on(h if self.gate.binary else h * gates[:, cut.on, None, None], cut.on)

    # -- a batch ---------------------------------------------------------------------------------------------------

    def _by_path(self, features: Tensor) -> Tensor:
        """Images that share the bits of this layer and of what enters it are computed together."""
        gates = self.layer.decide(self._read(features, None))[1]
        on = self.bits = gates != 0
        entering = self._entering_bits(len(features))
        whole = on if entering is None else torch.cat([on, entering], 1)
        paths, path_of = whole.unique(dim=0, return_inverse=True)
        filters = _places(paths[:, : on.shape[1]])
        channels = None if entering is None else _places(paths[:, on.shape[1] :])
        out = features.new_zeros(len(features), on.shape[1], *self._size(features))
        for path, images in enumerate(_members(path_of, len(paths))):
            part, weight = features.index_select(0, images), self.weight.index_select(0, filters[path])
            if channels is not None:
                part, weight = part.index_select(1, channels[path]), weight.index_select(1, channels[path])
            h = self._convolved(part, weight, self.bias.index_select(0, filters[path]))
            rows = (images[:, None] * self.filters + filters[path]).view(-1)
            out.view(-1, *h.shape[2:]).index_copy_(0, rows, h.flatten(0, 1))
        return out if self.gate.binary and self.layer.edit is None else out * gates[:, :, None, None]

    def _entering_bits(self, images: int) -> Tensor | None:
        """(N, C_in) bool: which channels of the input are on; None where all may be."""
        if all(source is None for source, _ in self.sources):
            return None
        everything = torch.ones(images, 1, dtype=torch.bool, device=self.weight.device)
        parts = [everything.expand(-1, n) if source is None else source.bits for source, n in self.sources]
        return torch.cat([part for part in parts if part is not None], 1)

    # -- all -------------------------------------------------------------------------------------------------------

    def _read(self, features: Tensor, entering: Tensor | None) -> Tensor:
        """(N, C_in) what the gate reads; what does not enter has the mean 0."""
        layer = self.layer
        if layer.reads_of:
            return layer.squeezed(features)
        read = features.mean((2, 3))
        if entering is not None and entering.shape[0] < self.channels:
            read = read.new_zeros(1, self.channels).index_copy_(1, entering, read)
        if layer.lends:
            layer.lent = read
        return read

    def _convolved(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        filters, channels = weight.shape[:2]
        if not filters:
            return features.new_zeros(features.shape[0], 0, *self._size(features))
        if not channels:  # nothing enters: what is left of the layer is its bias
            h = bias[None, :, None, None].repeat(features.shape[0], 1, *self._size(features))
        elif self.pads_zeros:
            h = F.conv2d(features, weight, bias, self.stride, self.padding, self.dilation)
        else:
            h = F.conv2d(_padded(features, self.conv), weight, bias, self.stride, 0, self.dilation)
        result: Tensor = F.relu_(h) if self.rectifies else self.act(h)
        return result

    def _size(self, features: Tensor) -> tuple[int, int]:
        """Height and width of the output."""
        conv = self.conv
        probe = torch.empty(1, 1, *_padded(features[:1], conv).shape[2:], device="meta")
        kernel = torch.empty(1, 1, *conv.kernel_size, device="meta")
        height, width = F.conv2d(probe, kernel, None, conv.stride, _padding(conv), conv.dilation).shape[2:]
        return height, width


def _scorer(gate: Gate) -> Callable[[Tensor], Tensor]:
    """The gate's scores; those of a controlling module without the cost of calling its parts."""
    if type(gate) is not ControllingModule:  # a subclass may score in another way
        return gate.scores
    (down, shift), (up, offset) = ((part.weight.t(), part.bias) for part in (gate.reduce, gate.expand))
    return lambda squeezed: torch.addmm(offset, torch.addmm(shift, squeezed, down).relu_(), up)


def _places(rows: Tensor) -> list[Tensor]:
    """(N, C) bool → for each row the places that are on."""
    return list(rows.nonzero()[:, 1].split(rows.sum(1).tolist()))


def _members(group_of: Tensor, groups: int) -> list[Tensor]:
    """(N,) → for each group the places that belong to it."""
    return list(group_of.argsort(stable=True).split(group_of.bincount(minlength=groups).tolist()))


def _padded(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """The input with what a convolution adds around it, where that is not zeros."""
    if conv.padding_mode == "zeros":
        return features
    return F.pad(features, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)


def _padding(conv: nn.Conv2d) -> str | tuple[int, ...]:
    return conv.padding if conv.padding_mode == "zeros" else (0, 0)
