"""How relevant each unit of a layer is to one channel of a deeper layer, for networks of ReLUs, batched.

The rules are those of VITAL's public code (Görgün, Schiele & Fischer 2025, arXiv:2503.22399), found in the traced
network instead of being written for one architecture. With a the stored input, R the relevance of the output and
ε = 1e-5, the input gets

    convolution, linear   a⁺ ⊙ W₊ᵀ (R / z) + a⁻ ⊙ W₋ᵀ (R / z),  z = W₊ a⁺ + W₋ a⁻ + ε,  the bias left out [code: a ≥ 0;
                          spec: the sign-aware form, where the code could divide by nearly nothing]
    average pool          a ⊙ poolᵀ (R / (pool(a) + ε)) [code]; where a may be negative, each place of a window the
                          same, as in the code's dense transition
    max pool              the same as if it took averages: of 2×2 for a 3×3 pool of stride 2 and padding 1, if that
                          gives as many places [code]; else of its own window [our choice: where the largest value
                          lies outside the 2×2, relevance is lost, half of it on the way through GoogLeNet]
    depthwise convolution (w²)ᵀ (R / Σ w²) [our choice: relevance stays in its channel in any case, and z⁺ loses nearly
                          all of it in MobileNetV2, where biases drive many units]
    sum a + b             |a| / (|a| + |b|) of R, and b the rest [code]; half of it where both are 0 [our choice]
    joined channels       the part of R that is theirs [code: dense layer]
    batch norm, ReLU, dropout   R [code]; leaky ReLU and response norm likewise [our choice]
    reshaped, padded, cut out   R moved back [derived]

and what a value is used for several times adds up. Batch norms are not folded. Everything else has no rule.
"""

import copy
import difflib
import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from bench.contract import Classifier, SetupError

EPSILON = 1e-5  # [code]

Kind = Literal["lrp", "restricted", "guided"]

# What a part of a network does, by the names of the functions that do it ...
FUNCTIONS: Mapping[str, str] = {
    **dict.fromkeys(("relu", "relu_", "relu6"), "relu"),
    **dict.fromkeys(("leaky_relu", "leaky_relu_"), "leaky_relu"),
    **dict.fromkeys(("dropout", "dropout2d", "local_response_norm"), "pass"),
    **dict.fromkeys(("add", "iadd", "add_"), "sum"),
    **dict.fromkeys(("cat", "concat"), "join"),
    **dict.fromkeys(("flatten", "reshape", "view"), "reshape"),
    **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d"), "average"),
    "max_pool2d": "max",
    "pad": "pad",
    "getitem": "cut",
}
# ... and by the classes of layers, whose subclasses count only where they compute the same.
LAYERS: Mapping[type[nn.Module], str] = {
    **dict.fromkeys((nn.ReLU, nn.ReLU6), "relu"),
    nn.LeakyReLU: "leaky_relu",
    **dict.fromkeys((nn.Dropout, nn.Dropout2d, nn.Identity, nn.LocalResponseNorm), "pass"),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), "norm"),
    **dict.fromkeys((nn.Conv2d, nn.Linear), "weighted"),
    **dict.fromkeys((nn.AvgPool2d, nn.AdaptiveAvgPool2d), "average"),
    nn.MaxPool2d: "max",
    nn.Flatten: "reshape",
}
# Functions that overwrite their input, and what computes the same without.
IN_PLACE: Mapping[Any, Any] = {
    operator.iadd: operator.add,
    torch.relu_: torch.relu,
    F.relu_: F.relu,
    F.leaky_relu_: F.leaky_relu,
    "add_": "add",
    "relu_": "relu",
}


def why_no_relevance(network: nn.Module, *, target: str, at: Sequence[str]) -> str | None:
    """The reason why relevance cannot flow from ``target`` back to each of ``at``, None where it can.

    Args:
        target, at: paths of modules inside ``network``, whose outputs are meant.

    Raises:
        SetupError: the network has no such module, with the nearest names.
    """
    try:
        _Way.through(network, target, at)
    except _NoWay as reason:
        return str(reason)
    return None


class Flow:
    """The subject cut off behind ``target``, with the rules of all that lies between it and ``at``.

    Built once: it holds the positive parts of weights, on the device where the subject is now. The subject's modules
    are used as they are, and nothing is left on them.

    Args:
        model: the subject, whose counter pays for everything.
        target, at: paths of modules inside ``model.network``, whose outputs are meant.
        kind: "lrp" starts with the channel's own map [code: the default]; "restricted" with a 1 at the one place where
            the channel's share of the feature vector's length is largest; "guided" takes the gradient of the channel's
            mean instead, passed on by ReLUs only where it is positive, and of the result the positive part.

    Raises:
        SetupError: there is no relevance: see ``why_no_relevance``.
    """

    def __init__(self, model: Classifier, *, target: str, at: Sequence[str], kind: Kind = "lrp") -> None:
        try:
            way = _Way.through(model.network, target, at)
        except _NoWay as reason:
            raise SetupError(f"{model.name} {reason}", "choose other layers, or no relevance") from None
        self.kind = kind
        self._model, self._at = model, {path: way.taps[path].name for path in at}
        if kind == "guided":
            rectifiers = [node for node in way.nodes if _kind(node, model.network) in ("relu", "leaky_relu")]
            self._parts: Sequence[_Part] = ()
            self._rectified = kept = [_Kept(node.name, "value") for node in rectifiers]
        else:
            self._parts = _parts(way, model.network)
            self._rectified, kept = [], [one for part in self._parts for one in part.kept]
        self._target = way.target.name
        self._cut = _Cut(model.network, way, {*kept, *(_Kept(name, "value") for name in self._at.values())})
        self._inside = _with_network(model, self._cut)

    def __call__(self, images: Tensor) -> "Flowed":
        """One forward pass of (B, C, H, W) intensities, as far as ``target``; the subject's counter pays for it.

        For guided relevance the graph is recorded even where gradients are switched off.
        """
        self._inside.passes = self._model.passes  # the harness may have changed it
        guided = self.kind == "guided"
        with torch.set_grad_enabled(torch.is_grad_enabled() or guided):
            if guided and not images.requires_grad:
                images = images.detach().requires_grad_()
            output = self._inside(images)
        return Flowed(self, len(images), output, self._cut.forget())


class Flowed:
    """What one forward pass left behind: features with their graph, and relevance on demand.

    Args:
        flow: what made it.
        count: B.
        output: (B, C, H', W') the target's features, with their graph.
        seen: all that was kept, of the batch as the wrapper filled it.
    """

    def __init__(self, flow: Flow, count: int, output: Tensor, seen: "Mapping[_Kept, Any]") -> None:
        self._flow, self._count, self._seen = flow, count, seen
        self.output = output
        self.features: dict[str, Tensor] = {  # path → (B, …), on the way from the images to the target
            path: self._own(seen[_Kept(name, "value")]) for path, name in flow._at.items()
        }

    def relevance(self, channels: Tensor) -> dict[str, Tensor]:
        """Path → (B, …) relevance of each unit of that layer to channel ``channels[b]`` of the target; no graph.

        Costs a forward and a backward pass an image; guided, a backward pass. It may be asked for several times.

        Args:
            channels: (B,) int64 in [0, C); not checked, for that would wait for the device.
        """
        guided = self._flow.kind == "guided"
        self._flow._model.passes.spend(forward=0 if guided else self._count, backward=self._count)
        found = self._guided(channels) if guided else self._propagated(channels)
        return {path: self._own(found[name]) for path, name in self._flow._at.items()}

    @torch.no_grad()
    def _propagated(self, channels: Tensor) -> dict[str, Tensor]:
        """Relevance of the whole batch by the name of the node, for the taps."""
        flow, target = self._flow, self._value(self._flow._target)
        start = _strongest if flow.kind == "restricted" else _whole_map
        relevance = {flow._target: _for_filled(start(target[: self._count], channels), target)}
        taps = set(flow._at.values())
        with torch.autocast(target.device.type, enabled=False):
            for part in flow._parts:
                own = relevance[part.name] if part.name in taps else relevance.pop(part.name)
                kept = [self._value(one.name) if one.what == "value" else self._seen[one] for one in part.kept]
                for name, share in zip(part.inputs, part.rule(own, *kept), strict=True):
                    relevance[name] = relevance[name] + share if name in relevance else share
        return relevance

    def _guided(self, channels: Tensor) -> dict[str, Tensor]:
        """The same by guided backpropagation: hooks on the graph of this pass, gone afterwards."""
        flow = self._flow
        target = self._seen[_Kept(flow._target, "value")]
        mean = _one_hot(target[: self._count], channels) / max(1, target[0, :1].numel())
        names = list(dict.fromkeys(flow._at.values()))
        hooks = [self._seen[one].register_hook(lambda slope: slope.clamp(min=0.0)) for one in flow._rectified]
        try:
            slopes = torch.autograd.grad(
                target,
                [self._seen[_Kept(name, "value")] for name in names],
                _for_filled(mean, target),
                retain_graph=True,
            )
        finally:
            for hook in hooks:
                hook.remove()
        return {name: slope.clamp(min=0.0) for name, slope in zip(names, slopes, strict=True)}

    def _value(self, name: str) -> Tensor:
        """Detached, and in float32 where it was computed in less: ε vanishes in half precision."""
        value: Tensor = self._seen[_Kept(name, "value")].detach()
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value

    def _own(self, tensor: Tensor) -> Tensor:
        """Without the images that the wrapper filled the batch with."""
        return tensor if len(tensor) == self._count else tensor[: self._count]


# ---- where relevance starts: features (B, C, …) and channels (B,) → the same axes -----------------------------------


def _one_hot(features: Tensor, channels: Tensor) -> Tensor:
    """1 everywhere on the channel's map, else 0."""
    chosen = torch.zeros_like(features)
    chosen[torch.arange(len(features), device=features.device), channels] = 1.0
    return chosen


def _whole_map(features: Tensor, channels: Tensor) -> Tensor:
    return features * _one_hot(features, channels)


def _strongest(features: Tensor, channels: Tensor) -> Tensor:
    """1 where f_c / ‖f‖ is largest, the first of equals; a vector of zeros has no share."""
    rows = torch.arange(len(features), device=features.device)
    length = torch.linalg.vector_norm(features, dim=1).clamp(min=torch.finfo(features.dtype).tiny)
    share = (features[rows, channels] / length).reshape(len(rows), -1)  # (B, D)
    places = torch.arange(share.shape[1], device=share.device)
    first = torch.where(share == share.amax(1, keepdim=True), places, len(places)).amin(1)
    start = torch.zeros_like(features)
    start.view(*start.shape[:2], -1)[rows, channels, first] = 1.0
    return start


def _for_filled(start: Tensor, filled: Tensor) -> Tensor:
    """Zeros behind it, for the images that the wrapper filled the batch with."""
    spare = len(filled) - len(start)
    return torch.cat([start, start.new_zeros(spare, *start.shape[1:])]) if spare else start


# ---- rules: the output's relevance and what was kept → the relevance of each input ------------------------------


def _passed_on(relevance: Tensor) -> tuple[Tensor]:
    return (relevance,)


def _by_contribution(relevance: Tensor, *terms: tuple[Callable[[Tensor], Tensor], Tensor]) -> Tensor:
    """Σ a ⊙ Lᵀ (R / (Σ L a + ε)) over the terms, each a linear function L and its (detached) input a."""
    inputs = [values.requires_grad_() for _, values in terms]
    with torch.enable_grad():
        outputs = [linear(values) for linear, values in terms]
    total = functools.reduce(torch.add, (output.detach() for output in outputs))
    slopes = torch.autograd.grad(outputs, inputs, [relevance / (total + EPSILON)] * len(outputs))
    return functools.reduce(torch.add, (a.detach() * slope for a, slope in zip(inputs, slopes, strict=True)))


def _by_positive_weights(relevance: Tensor, values: Tensor, *, positive: nn.Module) -> tuple[Tensor]:
    return (_by_contribution(relevance, (positive, values)),)


def _by_signs(relevance: Tensor, values: Tensor, *, positive: nn.Module, negative: nn.Module) -> tuple[Tensor]:
    return (_by_contribution(relevance, (positive, values.clamp(min=0.0)), (negative, values.clamp(max=0.0))),)


def _by_average(relevance: Tensor, values: Tensor, *, pool: Callable[[Tensor], Tensor]) -> tuple[Tensor]:
    return (_by_contribution(relevance, (pool, values)),)


def _by_places(relevance: Tensor, shape: torch.Size, *, pool: Callable[[Tensor], Tensor]) -> tuple[Tensor]:
    return (_by_contribution(relevance, (pool, relevance.new_ones(shape))),)


def _by_size(relevance: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    size = first.abs()
    total = size + second.abs()
    share = relevance * torch.where(total > 0, size / total, 0.5)
    return share.sum_to_size(first.shape), (relevance - share).sum_to_size(second.shape)


def _by_parts(relevance: Tensor, *shapes: torch.Size, axis: int) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = relevance.split([shape[axis] for shape in shapes], axis)
    return parts


def _reshaped(relevance: Tensor, shape: torch.Size) -> tuple[Tensor]:
    return (relevance.reshape(shape),)


def _cropped(relevance: Tensor, *, widths: Sequence[int]) -> tuple[Tensor]:
    return (F.pad(relevance, [-width for width in widths]),)


def _put_back(relevance: Tensor, shape: torch.Size, *, index: Any) -> tuple[Tensor]:
    whole = relevance.new_zeros(shape)
    whole[index] = relevance
    return (whole,)


# ---- from a node of the traced network to its rule -----------------------------------------------------------------


class _NoWay(Exception):
    """Relevance cannot flow, for the reason that it says."""


class _Kept(NamedTuple):
    """Something of a forward pass: the value of a node, or only the value's shape."""

    name: str
    what: Literal["value", "shape"]


@dataclass(frozen=True)
class _Part:
    """One node's rule: ``rule(relevance, *kept)`` is the relevance of each of ``inputs``."""

    name: str
    inputs: Sequence[str]
    rule: Callable[..., Sequence[Tensor]]
    kept: Sequence[_Kept] = ()


@dataclass(frozen=True)
class _Way:
    """The traced network and the part of it that relevance flows through.

    Args:
        taps: path → its node.
        nodes: all between the taps and the target, the target among them, from deep to shallow.
    """

    graph: fx.Graph
    target: fx.Node
    taps: Mapping[str, fx.Node]
    nodes: Sequence[fx.Node]

    @classmethod
    def through(cls, network: nn.Module, target: str, at: Sequence[str]) -> "_Way":
        """Trace the network and find the way.

        Raises:
            _NoWay: there is none.
            SetupError: the network has no such module.
        """
        asked = {path: _module(network, path) for path in (target, *at)}
        if any("Attention" in type(module).__name__ for module in network.modules()):
            raise _NoWay("has no rule for attention")
        tracer = _Tracer()
        try:
            graph = tracer.trace(network)
        except Exception as problem:  # whatever a network does that depends on its input's values
            raise _NoWay(f"cannot be traced by torch.fx: {type(problem).__name__}") from None
        found = {path: tracer.output_of(module, path) for path, module in asked.items()}
        before = _reached([found[target]], lambda node: node.all_input_nodes)
        behind = _reached([found[path] for path in at], lambda node: node.users)
        for path in at:
            if found[path] not in before or found[path] is found[target]:
                raise _NoWay(f"has {path} not before {target}: no relevance flows from one to the other")
        taps = {path: found[path] for path in at}
        starts = {node for node in taps.values() if not behind & {*node.all_input_nodes}}
        nodes = [node for node in reversed(graph.nodes) if node in before & behind and node not in starts]
        for node in nodes:
            if _kind(node, network) is None:
                raise _NoWay(f"has no rule for {_called(node, network)}")
        return cls(graph, found[target], taps, nodes)


class _Tracer(fx.Tracer):
    """Keeps layers with a rule whole, and remembers what each module gave."""

    def __init__(self) -> None:
        super().__init__()
        self._gave: dict[nn.Module, list[Any]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(LAYERS)) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        given = super().call_module(m, forward, args, kwargs)
        self._gave.setdefault(m, []).append(given)
        return given

    def output_of(self, module: nn.Module, path: str) -> fx.Node:
        """The node that is the module's output.

        Raises:
            _NoWay: it has none, several, or something else than a tensor.
        """
        given = self._gave.get(module, [])
        if len(given) != 1:
            raise _NoWay(f"uses {path} {len(given)} times in one pass, not once")
        if not isinstance(given[0], fx.Proxy):
            raise _NoWay(f"has a {type(given[0]).__name__} for the output of {path}, not a tensor")
        node: fx.Node = given[0].node
        return node


def _module(network: nn.Module, path: str) -> nn.Module:
    known = dict(network.named_modules(remove_duplicate=False))
    if path not in known or not path:
        near = difflib.get_close_matches(path, [name for name in known if name], n=3, cutoff=0.0)
        raise SetupError(f"the network has no module {path!r}", f"nearest: {', '.join(near) or 'none'}")
    module: nn.Module = known[path]
    return module


def _reached(starts: Iterable[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """The nodes that steps lead to, the first ones among them."""
    found, left = set(starts), list(starts)
    while left:
        new = [node for node in step(left.pop()) if node not in found]
        found.update(new)
        left += new
    return found


def _called(node: fx.Node, network: nn.Module) -> str:
    """What a reader would call it."""
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else node.target.__name__


def _kind(node: fx.Node, network: nn.Module) -> str | None:
    """What the node does, None where that has no rule."""
    if node.op == "call_module":
        return _kind_of_layer(network.get_submodule(str(node.target)))
    if node.op not in ("call_function", "call_method"):
        return None
    kind = FUNCTIONS.get(_called(node, network))
    settings = [*node.args[1:], *node.kwargs.values()]
    if kind == "sum":
        computed = [one for one in node.all_input_nodes if one.op != "get_attr"]  # a parameter has no relevance
        return kind if len(node.args) == len(computed) == 2 and not node.kwargs else None
    if kind == "join":
        return kind if node.args and isinstance(node.args[0], list | tuple) else None
    if kind == "pad" and (len(node.args) > 2 or node.kwargs.get("mode", "constant") != "constant"):
        return None
    return kind if len(node.all_input_nodes) == 1 and not any(isinstance(one, fx.Node) for one in settings) else None


def _kind_of_layer(layer: nn.Module) -> str | None:
    if parametrize.is_parametrized(layer):
        return None
    if type(layer).__name__ == "BatchNormAct2d":  # timm's, with its activation inside
        kinds = {_kind_of_layer(child) for child in layer.children()}
        return None if kinds - {"relu", "pass"} else "relu" if "relu" in kinds else "norm"
    if type(layer).__name__ == "Conv2dSame":  # timm's, padded as in TensorFlow
        return "weighted"
    if isinstance(layer, nn.MaxPool2d) and (layer.dilation not in (1, (1, 1)) or layer.return_indices):
        return None
    known = (kind for base, kind in LAYERS.items() if isinstance(layer, base) and type(layer).forward is base.forward)
    return next(known, None)


def _nonnegative(graph: fx.Graph, network: nn.Module) -> set[fx.Node]:
    """The nodes whose values are nowhere negative, whatever the images."""
    sure: set[fx.Node] = set()
    for node in graph.nodes:
        kind = _kind(node, network)
        keeps_sign = kind not in (None, "norm", "weighted") and (kind != "pad" or node.kwargs.get("value", 0) == 0)
        if kind == "relu" or (keeps_sign and sure.issuperset(node.all_input_nodes)):
            sure.add(node)
    return sure


def _parts(way: _Way, network: nn.Module) -> list[_Part]:
    """The rule of each node, from deep to shallow."""
    sure = _nonnegative(way.graph, network)
    return [_part(node, network, sure) for node in way.nodes]


def _part(node: fx.Node, network: nn.Module, sure: set[fx.Node]) -> _Part:
    """The node's rule; ``sure`` are the nodes without negative values."""
    args: Any = node.args
    settings: Any = node.kwargs
    kind = _kind(node, network)
    inputs = args[0] if kind == "join" else node.all_input_nodes
    names = [one.name for one in inputs]
    values, shapes = [_Kept(name, "value") for name in names], [_Kept(name, "shape") for name in names]
    positive = inputs[0] in sure
    rule: Callable[..., Sequence[Tensor]] = _passed_on
    kept: Sequence[_Kept] = ()
    match kind:
        case "weighted":
            layer = network.get_submodule(str(node.target))
            if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
                rule, kept = partial(_by_places, pool=_squared(layer)), shapes
            elif positive:
                rule, kept = partial(_by_positive_weights, positive=_clamped(layer, min=0.0)), values
            else:
                ends = {"positive": _clamped(layer, min=0.0), "negative": _clamped(layer, max=0.0)}
                rule, kept = partial(_by_signs, **ends), values
        case "average" | "max":
            pool = _averaging(node, network)
            rule, kept = (
                (partial(_by_average, pool=pool), values) if positive else (partial(_by_places, pool=pool), shapes)
            )
        case "sum":
            rule, kept = _by_size, values
        case "join":
            axis = args[1] if len(args) > 1 else settings.get("dim", settings.get("axis", 0))
            rule, kept = partial(_by_parts, axis=axis), shapes
        case "reshape":
            rule, kept = _reshaped, shapes
        case "pad":
            rule = partial(_cropped, widths=args[1] if len(args) > 1 else settings["pad"])
        case "cut":
            rule, kept = partial(_put_back, index=args[1]), shapes
    return _Part(node.name, names, rule, kept)


def _clamped(layer: nn.Module, **ends: float) -> Any:
    """A copy of a convolution or linear layer without bias, its weights clamped."""
    part = _unbiased(layer)
    part.weight.clamp_(**ends)
    return part


def _unbiased(layer: nn.Module) -> Any:
    part: Any = copy.deepcopy(layer).requires_grad_(False)
    part.bias = None
    return part


def _squared(layer: nn.Module) -> Any:
    """A copy of a convolution without bias, its weights squared and each kernel's sum 1."""
    part = _unbiased(layer)
    part.weight.square_()
    part.weight.div_(part.weight.sum((1, 2, 3), keepdim=True).clamp(min=torch.finfo(part.weight.dtype).tiny))
    return part


def _averaging(node: fx.Node, network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The average pool itself, or what stands for the max pool."""
    if node.op == "call_module":
        layer = network.get_submodule(str(node.target))
        if not isinstance(layer, nn.MaxPool2d):
            return layer
        return _averages(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    if _called(node, network) != "max_pool2d":
        return partial(_apply, function=node.target, args=node.args[1:], kwargs=node.kwargs)
    return _averages(*node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _apply(values: Tensor, *, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    pooled: Tensor = function(values, *args, **kwargs)
    return pooled


def _averages(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, **unused: Any
) -> Callable[[Tensor], Tensor]:
    """Averages in place of the largest: takes what ``max_pool2d`` takes."""
    stride = kernel_size if stride is None else stride
    usual = kernel_size in (3, (3, 3)) and stride in (2, (2, 2)) and padding in (1, (1, 1))

    def pool(values: Tensor) -> Tensor:
        own = F.avg_pool2d(values, kernel_size, stride, padding, ceil_mode)
        halves = F.avg_pool2d(values, 2) if usual else own
        return halves if halves.shape == own.shape else own

    return pool


# ---- the network cut off behind the target --------------------------------------------------------------------------


class _Cut(nn.Module):
    """The network as far as the target; keeps what was asked for until ``forget`` hands it over."""

    def __init__(self, network: nn.Module, way: _Way, kept: set[_Kept]) -> None:
        super().__init__()
        target = _Kept(way.target.name, "value")
        self._order = [target, *sorted(kept - {target})]
        self._seen: Sequence[Any] = ()
        self.inside = _traced(network, way.graph, self._order)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images → the target's output."""
        self._seen = self.inside(images)
        target: Tensor = self._seen[0]
        return target.view_as(target)  # the wrapper counts gradients that enter here; guided ones are counted by us

    def forget(self) -> dict[_Kept, Any]:
        """What the last pass left behind."""
        seen, self._seen = self._seen, ()
        return dict(zip(self._order, seen, strict=True))


def _traced(network: nn.Module, graph: fx.Graph, outputs: Sequence[_Kept]) -> fx.GraphModule:
    """A network that gives ``outputs`` and computes nothing else; layers are the subject's. Takes the graph over."""
    nodes = {node.name: node for node in graph.nodes}
    needed = _reached([nodes[one.name] for one in outputs], lambda node: node.all_input_nodes)
    for node in reversed(graph.nodes):
        if node not in needed and node.op != "placeholder":
            graph.erase_node(node)
    given = []
    for kept in outputs:
        node = nodes[kept.name]
        with graph.inserting_after(node):
            given.append(node if kept.what == "value" else graph.call_function(getattr, (node, "shape")))
    graph.output(tuple(given))
    for node in graph.nodes:
        _keep_inputs(node)
    traced = fx.GraphModule(network, graph)
    for path in {str(node.target) for node in graph.nodes if node.op == "call_module"}:
        layer = network.get_submodule(path)
        if getattr(layer, "inplace", False):
            layer = copy.copy(layer)
            layer.inplace = False  # type: ignore[assignment]
            traced.set_submodule(path, layer)
    return traced


def _keep_inputs(node: fx.Node) -> None:
    """Let the function overwrite nothing: what was kept must stay."""
    node.target = IN_PLACE.get(node.target, node.target)
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}


def _with_network(model: Classifier, network: nn.Module) -> Any:
    """The wrapper, which fills batches, normalises and counts, around another network."""
    wrapper: Any = copy.copy(model)
    wrapper._modules = {"network": network}  # its own: those of the copy are the model's
    wrapper.num_classes = 1  # the target takes the place of the logits, also in a network that has none
    return wrapper
