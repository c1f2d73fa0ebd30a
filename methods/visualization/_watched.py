"""What modules of a subject give, by their path, from one forward pass that ends at the last of them."""

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import Classifier, PassCounter, Unsupported, VisualizationTask


class Reached(Exception):
    """Everything asked for has been seen: what lies behind it need not be computed."""


class Watched:
    """A copy of the subject that is run as far as the given modules, and counts its passes as the subject's.

    Args:
        model: the subject; it stays as it is.
        paths: of modules inside ``model.network``.
        channels_last: keep weights and maps with channels last in memory: faster convolutions on a GPU.
        autocast: run in bfloat16 where torch finds it safe; what is returned is float32.
        compiled: hand the network, cut off behind the modules, to ``torch.compile``.

    Raises:
        Unsupported: it should be compiled and cannot be cut.
    """

    def __init__(
        self,
        model: Classifier,
        paths: Sequence[str],
        *,
        channels_last: bool = False,
        autocast: bool = False,
        compiled: bool = False,
    ) -> None:
        self.model = model
        self.cut = _Cut(copy.deepcopy(model.network), paths, channels_last, autocast, compiled)
        self.twin: Any = copy.copy(model)
        self.twin._modules = dict(self.twin._modules) | {"network": self.cut}  # the subject's own stay

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Path → (B, …) float32 output of the module for (B, C, H, W) intensities; costs one pass."""
        self.twin.passes = self.model.passes
        with contextlib.suppress(Reached):
            self.twin.features(images, self.model.taps[-1])
        seen, self.cut.seen = self.cut.seen, {}
        return {path: output[: len(images)].float() for path, output in seen.items()}


class _Cut(nn.Module):
    """A network that keeps what some of its modules give and goes no further."""

    def __init__(
        self, network: nn.Module, paths: Sequence[str], channels_last: bool, autocast: bool, compiled: bool
    ) -> None:
        super().__init__()
        self.paths, self.channels_last, self.autocast = list(paths), channels_last, autocast
        self.seen: dict[str, Tensor] = {}
        if channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self.run: Callable[[Tensor], Any] = _compiled(network, self.paths)
        else:
            self.run = network
            for path in self.paths:
                network.get_submodule(path).register_forward_hook(self._keeper(path))
        self.compiled = compiled

    def forward(self, inside: Tensor) -> Tensor:
        """Ends by ``Reached``, whatever the network is."""
        self.seen = {}
        if self.channels_last:
            inside = inside.contiguous(memory_format=torch.channels_last)
        with torch.autocast(inside.device.type, torch.bfloat16, enabled=self.autocast):
            seen = self.run(inside)
        if self.compiled:
            self.seen = dict(seen)
        raise Reached

    def _keeper(self, path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            self.seen[path] = output
            if len(self.seen) == len(self.paths):
                raise Reached

        return keep


def _compiled(network: nn.Module, paths: Sequence[str]) -> Callable[[Tensor], Mapping[str, Tensor]]:
    from torchvision.models.feature_extraction import create_feature_extractor

    try:
        cut = create_feature_extractor(network, {path: path for path in paths})
    except Exception as problem:  # whatever a network does that cannot be traced
        raise Unsupported(f"{type(network).__name__} cannot be cut for torch.compile: {problem}") from problem
    found: Callable[[Tensor], Mapping[str, Tensor]] = torch.compile(cut)
    return found


@torch.no_grad()
def shapes_until(model: Classifier, tap: str) -> dict[str, torch.Size]:
    """Path → shape of what a module gives for one image, in the order in which they are done, up to the tap's own.

    Costs no passes. Modules that give no tensor are left out.
    """
    black = torch.zeros(1, *model.image_shape, device=next(model.network.parameters()).device)
    done: dict[str, torch.Size] = {}

    def note(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def noted(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                done.pop(path, None)  # of a module that is used twice, the second time counts
                done[path] = torch.Size((1, *output.shape[1:]))

        return noted

    hooks = [part.register_forward_hook(note(path)) for path, part in model.network.named_modules() if path]
    passes, model.passes = model.passes, PassCounter()
    try:
        model.features(black, tap)
    finally:
        model.passes = passes
        for hook in hooks:
            hook.remove()
    return done


def positions(shape: torch.Size) -> int:
    """Positions of a map (1, D, H, W), tokens of (1, tokens, D); 1 of anything else."""
    return {4: shape[-1] * shape[-2], 3: shape[1]}.get(len(shape), 1) if len(shape) > 1 else 1


def usable(task: VisualizationTask) -> dict[str, torch.Size]:
    """Modules whose output has positions, before the channel if one is asked for → shape of their output."""
    shapes = shapes_until(task.model, task.tap or task.model.taps[-1])
    if task.kind == "channel":
        shapes.popitem()
    return {path: shape for path, shape in shapes.items() if positions(shape) > 1}
