"""Back-projection: from the features of a tap to the input that would have made them, layer by layer.

What the weights are transposed in, activations and pools are undone as far as they can be, and blocks that are no chain
of layers (residual, attention) are inverted numerically. Orthogonal weights make the linear part exact: for W Wᵀ = a I
or Wᵀ W = a I, Wᵀ / a is the pseudo-inverse of W.

Source: Zhang et al. 2023, arXiv:2212.09062, as the authors' public code inverts convolutions, linear layers and
activations [code]; scaling by a, the pseudo-inverse, batch norm, blocks and tokens are ours [our choice].

**B** images, **n** outputs and **m** inputs of a layer's matrix W (n, m), kernels flattened behind axis 0.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from bench.contract import Classifier, PassCounter, SetupError, Unsupported

Inverse = Literal["transpose", "rownorm", "pinv"]
SMALLEST = 1e-8  # added to squares that are divided by
# Batches are filled up to a multiple of this, as the wrapper does: kernels add in another order for few images, and a
# sum that is rounded to the other side of a ReLU's zero would make an image differ from what it is among others.
FILL = 8


# ---- one layer and back --------------------------------------------------------------------------------------------


@dataclass
class Step:
    """One layer on the way to the tap.

    Args:
        forward: the layer itself.
        shape: of one image's input.
        back: (output, recorded input or None) → input.
        remembers: whether ``back`` can make use of a recorded input.
        passes: (without, with a recording) what ``back`` costs besides the way back itself, in image passes.
    """

    forward: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    back: Callable[[Tensor, Tensor | None], Tensor]
    remembers: bool = False
    passes: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class _Ways:
    """How layers are inverted; see ``BackProjection``."""

    inverse: Inverse
    amplitude: float
    batch_norm: Literal["fold", "undo"]
    guided: bool
    steps: int


def _linear(layer: nn.Linear, shape: tuple[int, ...], ways: _Ways) -> Step:
    back = _returning(layer.weight, ways)

    def invert(output: Tensor, at: Tensor | None) -> Tensor:
        return (output if layer.bias is None else output - layer.bias) @ back

    return Step(layer, shape, invert)


def _convolution(layer: nn.Conv2d, shape: tuple[int, ...], ways: _Ways) -> Step:
    """Each place hands back its patch; where patches overlap, their mean counts."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise Unsupported(f"has no inverse step for padding {layer.padding_mode} {layer.padding}")
    groups = layer.groups
    blocks = layer.weight.reshape(groups, len(layer.weight) // groups, -1)
    norms = layer.weight.flatten(1).square().sum(1) + SMALLEST
    scaled = _returning(blocks, ways) if ways.inverse != "rownorm" else blocks / norms.view(groups, -1, 1)
    kernel = scaled.reshape(layer.weight.shape)
    where = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}

    def spread(output: Tensor, kernel: Tensor, groups: int) -> Tensor:
        more = [  # rows and columns at the end that are there beyond the last whole stride
            length - (step * (places - 1) - 2 * border + reach * (window - 1) + 1)
            for length, places, window, step, border, reach in zip(
                shape[-2:],
                output.shape[-2:],
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.dilation,
                strict=True,
            )
        ]
        return F.conv_transpose2d(output, kernel, groups=groups, output_padding=more, **where)  # type: ignore[arg-type]

    def invert(output: Tensor, at: Tensor | None) -> Tensor:
        if layer.bias is not None:
            output = output - layer.bias[:, None, None]
        once = torch.ones_like(output[:1, :1])
        overlap = spread(once, torch.ones_like(kernel[:1, :1]), 1)  # how many patches a pixel is in
        return spread(output, kernel, groups) / overlap.clamp(min=1)

    return Step(layer, shape, invert)


def _returning(weight: Tensor, ways: _Ways) -> Tensor:
    """(…, n, m) with which an output (…, n) is multiplied to become an input."""
    if ways.inverse == "pinv":
        pseudo_inverse: Tensor = torch.linalg.pinv(weight.double())
        return pseudo_inverse.mT.to(weight)
    return weight / ways.amplitude if ways.inverse == "transpose" else weight  # [code]: linear layers are not divided


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, shape: tuple[int, ...], ways: _Ways) -> Step:
    """Undone exactly; a channel that the layer switches off comes back as its mean."""
    assert layer.running_mean is not None and layer.running_var is not None
    axes = (-1, *(1,) * (len(shape) - 1))
    scale = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
    mean, scale = layer.running_mean.view(axes), scale.view(axes)
    shift = torch.zeros_like(mean) if layer.bias is None else layer.bias.view(axes)

    def invert(output: Tensor, at: Tensor | None) -> Tensor:
        return (output - shift) * scale / (scale.square() + SMALLEST) + mean

    return Step(layer, shape, invert)


def _relu(layer: nn.Module, shape: tuple[int, ...], ways: _Ways) -> Step:
    def invert(output: Tensor, at: Tensor | None) -> Tensor:
        return output if at is None or not ways.guided else output.clamp(min=0) * (at > 0)

    return Step(layer, shape, invert, remembers=ways.guided)


def _leaky_relu(layer: nn.LeakyReLU, shape: tuple[int, ...], ways: _Ways) -> Step:
    slope = layer.negative_slope
    if slope == 0:
        return _relu(layer, shape, ways)
    return Step(layer, shape, lambda output, at: torch.where(output > 0, output, output / slope))


def _max_pool(layer: nn.MaxPool2d, shape: tuple[int, ...], ways: _Ways) -> Step:
    """Each winner is spread over its window by the nearest neighbour [code]."""
    if _pair(layer.dilation) != (1, 1):
        raise Unsupported(f"has no inverse step for a pool with dilation {layer.dilation}")
    kernel, stride, padding = (_pair(number) for number in (layer.kernel_size, layer.stride, layer.padding))

    def invert(output: Tensor, at: Tensor | None) -> Tensor:
        size = [
            step * (length - 1) - 2 * border + window
            for length, window, step, border in zip(output.shape[-2:], kernel, stride, padding, strict=True)
        ]
        return _resized(F.interpolate(output, size, mode="nearest"), shape)

    return Step(layer, shape, invert)


def _mean_pool(layer: nn.Module, shape: tuple[int, ...], ways: _Ways) -> Step:
    return Step(layer, shape, lambda output, at: F.interpolate(output, shape[-2:], mode="nearest"))


def _flatten(layer: nn.Module, shape: tuple[int, ...], ways: _Ways) -> Step:
    return Step(layer, shape, lambda output, at: output.reshape(len(output), *shape))


def _patches(layer: nn.Module, shape: tuple[int, ...], ways: _Ways) -> Step:
    """The patch embedding of timm: a convolution whose places become tokens."""
    if not isinstance(layer.norm, nn.Identity):
        raise Unsupported("has no inverse step for patches that are normalised")
    inner = _convolution(cast(nn.Conv2d, layer.proj), shape, ways)
    rows = shape[-2] // cast(nn.Conv2d, layer.proj).stride[0]

    def invert(tokens: Tensor, at: Tensor | None) -> Tensor:
        return inner.back(tokens.mT.unflatten(2, (rows, -1)), at)

    return Step(layer, shape, invert)


def _tokens(tokens: Tensor, patches: Tensor) -> Step:
    """Positions and class tokens, which a transformer adds to its patches between two modules."""
    prefix = tokens.shape[1] - patches.shape[1]

    def put_before(patches: Tensor) -> Tensor:
        return F.pad(patches, (0, 0, prefix, 0))

    added = (tokens - put_before(patches))[:1]
    return Step(
        lambda patches: put_before(patches) + added, patches.shape[1:], lambda tokens, at: (tokens - added)[:, prefix:]
    )


def _block(block: nn.Module, shape: tuple[int, ...], ways: _Ways, seen: Tensor) -> Step:
    """A block that is no chain of layers, y = H(x) [our choice].

    With a recorded input it is inverted by the transposed Jacobian there. Without one H(x) = y is solved: by the fixed
    point x ← x + y − H(x) where the shape stays (for a residual block, x ← y − F(x)), then twice by conjugate gradients
    on the linearised block (CGLS); what fits worse than before is thrown away, image by image.

    Args:
        seen: (P, …) inputs that it had for images of noise: their mean is the start where the shape changes, and if
            all are ≥ 0, as behind a ReLU, negative ones are cut off after each iteration.
    """
    low = 0.0 if seen.min() >= 0 else -torch.inf
    typical = seen.mean(0)

    def invert(output: Tensor, at: Tensor | None) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no derivative forward
            if at is not None:
                return _transposed(block, at)(output)
            keeps = output.shape[1:] == shape
            point = output.clamp(min=low) if keeps else typical.repeat(len(output), *(1,) * len(shape))
            latest = found = _Fit(point, output - block(point))
            for _ in range(ways.steps if keeps else 0):
                point = (latest.point + latest.missing).clamp(min=low)
                latest = _Fit(point, output - block(point))
                found = found.or_better(latest)
            for _ in range(2):
                change = _least_squares(block, found.point, found.missing, ways.steps)
                point = (found.point + change).clamp(min=low)
                found = found.or_better(_Fit(point, output - block(point)))
            return found.point

    conjugate = 2 * (3 * ways.steps + 3)  # a derivative forward is counted as two passes
    return Step(block, shape, invert, remembers=True, passes=(1 + ways.steps + conjugate, 1))


class _Fit(NamedTuple):
    """Inputs that were found, (B, …), and what their outputs miss of those wanted, (B, …)."""

    point: Tensor
    missing: Tensor

    def or_better(self, other: "_Fit") -> "_Fit":
        """The one of both that misses less, image by image."""
        # false where the iteration has left the finite numbers
        better = (_squares(other.missing) < _squares(self.missing)).flatten()
        return _Fit(
            *(torch.where(better.view(-1, *(1,) * (a.ndim - 1)), b, a) for a, b in zip(self, other, strict=True))
        )


def _transposed(block: nn.Module, at: Tensor) -> Callable[[Tensor], Tensor]:
    """Jᵀ of the block at a batch of inputs: (B, …) outputs → (B, …) inputs."""
    pull = torch.func.vjp(block, at)[1]
    return lambda output: cast(Tensor, pull(output)[0])


def _least_squares(block: nn.Module, at: Tensor, wanted: Tensor, steps: int) -> Tensor:
    """(B, …) change d of the inputs that makes ‖J d − wanted‖ small for each image, from d = 0.

    CGLS, Hestenes & Stiefel 1952, section 10: conjugate gradients on the normal equations without forming them.
    """
    transposed = _transposed(block, at)
    change = torch.zeros_like(at)
    slope = transposed(wanted)
    direction, size = slope, _squares(slope)
    for _ in range(steps):
        effect = cast(Tensor, torch.func.jvp(block, (at,), (direction,))[1])
        length = size / (_squares(effect) + torch.finfo(size.dtype).tiny)
        change, wanted = change + length * direction, wanted - length * effect
        slope = transposed(wanted)
        before, size = size, _squares(slope)
        direction = slope + size / (before + torch.finfo(size.dtype).tiny) * direction
    return change


def _squares(tensor: Tensor) -> Tensor:
    """Sum of squares of each image, (B, 1, …)."""
    return tensor.square().sum(tuple(range(1, tensor.ndim)), keepdim=True)


def _pair(number: int | tuple[int, ...]) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else (number[0], number[1])


def _resized(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Cut to the height and width of ``shape``, or continued with the last row and column."""
    maps = maps[..., : shape[-2], : shape[-1]]
    return F.pad(maps, (0, shape[-1] - maps.shape[-1], 0, shape[-2] - maps.shape[-2]), mode="replicate")


Rule = Callable[..., Step]  # (module, shape of its input, ways); each takes modules of its own kind
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu,
    nn.LeakyReLU: _leaky_relu,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _mean_pool,
    nn.AdaptiveAvgPool2d: _mean_pool,
    nn.Flatten: _flatten,
}


def _rule(module: nn.Module) -> Rule | None:
    if type(module).__name__ == "PatchEmbed":
        return _patches
    known = next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None)
    is_block = not isinstance(module, nn.Sequential) and any(True for _ in module.children())
    return known or (_block if is_block else None)


# ---- how a network is put together ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Call:
    """What a module was given and what it returned, as the tensors themselves: they tell who follows whom."""

    module: nn.Module
    given: Tensor
    returned: Tensor


@dataclass(eq=False)
class _Tour:
    """One run through a network up to a tap."""

    inputs: Tensor
    features: Tensor
    calls: list[_Call] = field(default_factory=list)

    def way_to(self, tensor: Tensor) -> list[_Call] | None:
        """The calls that lead from the input to a tensor, the finest that have a rule; None where no module leads.

        Where a module's last layer cannot be followed back, the module itself is tried.
        """
        if tensor is self.inputs:
            return []
        for call in self.calls:  # inner modules return before those around them
            if call.returned is tensor and call.given is not tensor and _rule(call.module):
                before = self.way_to(call.given)
                if before is not None:
                    return [*before, call]
        patches = next((call for call in self.calls if type(call.module).__name__ == "PatchEmbed"), None)
        if patches and tensor.ndim == 3 and tensor.shape[1] >= patches.returned.shape[1] and self._is_first(tensor):
            return [*(self.way_to(patches.returned) or []), _Call(nn.Identity(), patches.returned, tensor)]
        return None

    def _is_first(self, tokens: Tensor) -> bool:
        """Whether no module made these tokens: they were put together from the patches."""
        return not any(call.returned is tokens and call.given is not tokens for call in self.calls)


def _tour(model: Classifier, tap: str, images: Tensor) -> _Tour:
    """Run ``images`` to the tap and keep what the modules exchange. The model's hooks and counter are used."""
    calls: list[_Call] = []

    def keep(module: nn.Module, given: tuple[object, ...], returned: object) -> None:
        if len(given) == 1 and isinstance(given[0], Tensor) and isinstance(returned, Tensor):
            calls.append(_Call(module, given[0], returned))

    entered: list[Tensor] = []
    for module in model.network.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010  an input must not turn into the output
        module.register_forward_hook(keep)
    model.network.register_forward_pre_hook(lambda module, given: entered.append(given[0]))
    features = model.features(images, tap)
    return _Tour(entered[0], features, calls)


def _steps(tour: _Tour, ways: _Ways, name: str) -> list[Step]:
    way = tour.way_to(tour.features)
    if way is None:
        raise Unsupported(f"cannot follow {name} back: something happens between its modules, or has no inverse step")
    steps: list[Step] = []
    waiting: nn.Module | None = None  # a layer that a batch norm may yet be folded into
    shape: tuple[int, ...] = ()
    for call in way:
        module = call.module
        if waiting is not None and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and ways.batch_norm == "fold":
            fuse = fuse_linear_bn_eval if isinstance(waiting, nn.Linear) else fuse_conv_bn_eval
            steps[-1] = RULES[type(waiting)](fuse(waiting, module), shape, ways)  # type: ignore[type-var]
            waiting = None
            continue
        shape = tuple(call.given.shape[1:])
        steps.append(_step(call, shape, ways))
        waiting = module if type(module) in (nn.Linear, nn.Conv2d) else None
    return steps


def _step(call: _Call, shape: tuple[int, ...], ways: _Ways) -> Step:
    if isinstance(call.module, nn.Identity):  # put on the way where tokens are made of patches
        return _tokens(call.returned, call.given)
    rule = _rule(call.module)
    assert rule is not None  # only such calls are on the way
    return _block(call.module, shape, ways, call.given) if rule is _block else rule(call.module, shape, ways)


# ---- the whole way -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """One forward pass of B images.

    Args:
        features: (B, …) the tap's tensor.
        inputs: of each step that remembers, None for the others.
    """

    features: Tensor
    inputs: tuple[Tensor | None, ...]

    def repeat(self, times: int) -> "Recording":
        """Each image ``times`` times in a row."""
        inputs = (None if given is None else given.repeat_interleave(times, 0) for given in self.inputs)
        return Recording(self.features.repeat_interleave(times, 0), tuple(inputs))


class BackProjection:
    """g: from the features of a tap back to the input.

    Args:
        inverse: of a layer's W. "transpose", Wᵀ / amplitude; "rownorm", the authors' code [code]: rows of kernels
            divided by their squared norm, linear layers as they are; "pinv", the pseudo-inverse of each layer: the
            fair one for weights that are not orthogonal.
        amplitude: a, the squared singular values that the weights were trained to have.
        batch_norm: "fold" it into the layer before it, whose folded weights are then inverted, or "undo" it exactly.
        guided: with a recording, ReLUs keep what is positive on the way back and was positive on the way up [code].
        steps: iterations of each solver for blocks, see ``_block``.

    Attributes:
        passes: image passes that a call with a recording costs an image; the call counts them.
        passes_alone: the same without one.

    Raises:
        Unsupported: some part of the network before the tap has no inverse step.
        SetupError: an amplitude that is not above 0 and finite, or fewer than one step.
    """

    def __init__(
        self,
        model: Classifier,
        tap: str,
        *,
        inverse: Inverse = "transpose",
        amplitude: float = 1.0,
        batch_norm: Literal["fold", "undo"] = "fold",
        guided: bool = False,
        steps: int = 6,
    ) -> None:
        if not 0 < amplitude < math.inf:
            raise SetupError(f"amplitude should be above 0 and finite, got {amplitude}", "1 is what training aims at")
        if steps < 1:
            raise SetupError(f"steps should be 1 or more, got {steps}", "6 is the default")
        self._counter = model
        own = copy.deepcopy(model)
        own.passes = PassCounter()
        images = torch.rand(FILL, *model.image_shape, generator=torch.Generator().manual_seed(0)).to(_device(model))
        ways = _Ways(inverse=inverse, amplitude=amplitude, batch_norm=batch_norm, guided=guided, steps=steps)
        with torch.no_grad():
            tour = _tour(own, tap, images)
            for module in own.network.modules():
                module._forward_hooks.clear()
                module._forward_pre_hooks.clear()
            self._steps = _steps(tour, ways, model.name)
            self._check(tour)
        # blocks are parts of the network: all of them once are no more than one pass
        self.passes_alone, self.passes = (1 + max((step.passes[i] for step in self._steps), default=0) for i in (0, 1))

    @torch.no_grad()
    def record(self, images: Tensor) -> Recording:
        """What the network computes of (B, C, H, W) intensities on its way to the tap; one pass an image."""
        count = len(images)
        self._counter.passes.spend(forward=count)
        inputs: list[Tensor | None] = []
        passing = _filled(self._counter.normalise(images))
        for step in self._steps:
            inputs.append(passing[:count] if step.remembers else None)
            passing = step.forward(passing)
        return Recording(passing[:count], tuple(inputs))

    @torch.no_grad()
    def __call__(self, features: Tensor, recording: Recording | None = None) -> Tensor:
        """(B, …) features of the tap → (B, C, H, W) inputs as the bare network takes them, not clipped.

        Args:
            recording: of the B images whose masks are used and where blocks are linearised.
        """
        count = len(features)
        self._spend(count, recording is not None)
        inputs: Sequence[Tensor | None] = recording.inputs if recording else [None] * len(self._steps)
        passing = _filled(features)
        for step, at in zip(reversed(self._steps), reversed(inputs), strict=True):
            passing = step.back(passing, None if at is None else _filled(at))
        return passing[:count]

    def _spend(self, images: int, recorded: bool) -> None:
        total = self.passes if recorded else self.passes_alone
        backward = 1 + (total - 1) // 2
        self._counter.passes.spend(forward=images * (total - backward), backward=images * backward)

    def _check(self, tour: _Tour) -> None:
        """The steps compute what the network computes, so nothing was overlooked between the modules."""
        passing = tour.inputs
        for step in self._steps:
            passing = step.forward(passing)
        scale = tour.features.abs().max().clamp(min=SMALLEST)
        if passing.shape != tour.features.shape or not bool(((passing - tour.features).abs() <= 1e-3 * scale).all()):
            raise Unsupported(f"cannot follow {self._counter.name} back: something happens between its modules")


def _filled(rows: Tensor) -> Tensor:
    """The rows, and zeros behind them up to a multiple of ``FILL``."""
    return F.pad(rows, (0,) * (2 * rows.ndim - 1) + (-len(rows) % FILL,))


def _device(model: Classifier) -> torch.device:
    return next(model.network.parameters()).device


def denormalised(model: Classifier, inputs: Tensor) -> Tensor:
    """(B, C, H, W) inputs of the bare network → intensities, not clipped; undoes ``model.normalise``."""
    black = torch.zeros(1, *model.image_shape, device=inputs.device)
    low, high = model.normalise(black), model.normalise(black + 1)
    return (inputs - low) / (high - low)


def top_tap(model: Classifier) -> str:
    """The deepest tap with tokens or with a map that has an inside, at least 5 × 5; else the deepest with any map; else
    the last before "penultimate". Costs no passes.
    """
    shapes = {}
    before, model.passes = model.passes, PassCounter()
    try:
        with torch.no_grad():
            for tap in model.taps[:-1]:
                shapes[tap] = model.features(torch.zeros(1, *model.image_shape, device=_device(model)), tap).shape
    finally:
        model.passes = before
    inside = [tap for tap, shape in shapes.items() if len(shape) == 3 or (len(shape) == 4 and min(shape[2:]) >= 5)]
    spread = [tap for tap, shape in shapes.items() if len(shape) > 2]
    return (inside or spread or list(shapes) or list(model.taps))[-1]
