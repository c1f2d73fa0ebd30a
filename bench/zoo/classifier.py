"""The wrapper around every network under test: [0, 1] in, logits out, frozen, with named taps and counted passes."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import Observation, PassCounter, SetupError, ShapeError

PENULTIMATE = "penultimate"
# Batches are filled up to a multiple of this with grey images. CPU kernels for fewer images, or for a remainder, add in
# another order; with it an image comes out the same, bit for bit in the networks we measured, alone and among others.
FILL = 8


class _Reached(Exception):
    """The deepest tap asked for has been seen: what lies behind it need not be computed."""


class Classifier(nn.Module):
    """A trained network as every method sees it.

    Args:
        network: takes normalised (B, C, H, W) images, returns (B, K) logits.
        name: how records call it.
        image_shape: (C, H, W).
        num_classes: K; 0 when the network has no logits (a trunk).
        mean, std: per channel, in intensities: ``network`` gets (images − mean) / std.
        taps: tap name → module path inside ``network`` whose output it is, from shallow to deep. "penultimate" is
            added, (B, D): the input of the layer that makes the logits (see ``_head_of``), averaged over positions
            where that is a convolution, or the network's own output when it has no logits.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        image_shape: tuple[int, int, int],
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        taps: dict[str, str],
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name, self.image_shape, self.num_classes = name, image_shape, num_classes
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        self._modules_of_taps = {tap: network.get_submodule(path) for tap, path in taps.items()}
        # in a tuple: as an attribute it would be registered a second time
        self._head = (_head_of(network, num_classes),) if num_classes else ()
        self.taps = (*taps, PENULTIMATE)
        self.passes = PassCounter()
        self.eval()

    def train(self, mode: bool = True) -> "Classifier":
        """Stay in eval mode, whatever is asked: a subject never learns."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Intensities in [0, 1] → what ``network`` takes; axes unchanged."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32 intensities → (B, K) logits."""
        return self.observe(images, ()).logits

    def features(self, images: Tensor, tap: str) -> Tensor:
        """The tap's tensor for each image, (B, …). Layers behind the tap are not computed; it costs one pass."""
        return self._run(images, (tap,), stop=True).features[tap]

    def observe(self, images: Tensor, taps: Sequence[str]) -> Observation:
        """Logits and taps from one forward pass."""
        if not self.num_classes:
            raise SetupError(f"{self.name} has no logits", "ask for its features instead")
        return self._run(images, taps, stop=False)

    def checksum(self) -> str:
        """sha256 over names, shapes and bytes of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _run(self, images: Tensor, taps: Sequence[str], stop: bool) -> Observation:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ShapeError(
                f"{self.name} takes (B, {', '.join(map(str, self.image_shape))}), got {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise ShapeError(f"{self.name} takes floating point intensities in [0, 1], got {images.dtype}")
        for tap in taps:
            if tap not in self.taps:
                raise SetupError(f"{self.name} has no tap {tap!r}", f"it has: {', '.join(self.taps)}")
        self.passes.spend(forward=len(images))
        count = self._backward_counter(len(images))
        seen: dict[str, Tensor] = {}
        inside = self.normalise(images)
        count(inside)
        hooks = [self._watch(tap, seen, len(images), stop and len(taps) == 1) for tap in taps]
        try:
            out = _first(self.network(_filled(inside)), len(images))
        except _Reached:
            out = seen[taps[0]]
        finally:
            for hook in hooks:
                hook.remove()
        for tensor in seen.values():
            count(tensor)
        count(out)
        if PENULTIMATE in taps and not self._head:
            seen[PENULTIMATE] = out.flatten(1)
        return Observation(out, seen)

    def _watch(self, tap: str, seen: dict[str, Tensor], images: int, stop: bool) -> torch.utils.hooks.RemovableHandle:
        """Hook that keeps the tap's tensor. A penultimate tap without a head is taken from the output instead."""

        def keep(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, Tensor):
                raise SetupError(
                    f"{self.name}: tap {tap!r} gives a {type(tensor).__name__}, not a tensor",
                    f"it has: {', '.join(self.taps)}",
                )
            own = _first(tensor, images)
            seen[tap] = own.mean((2, 3)) if tap == PENULTIMATE and own.ndim == 4 else own
            if stop:
                raise _Reached
            # what is kept must lie on the way to the logits, for gradients that leave at the tap
            return torch.cat([own, tensor[images:]]) if len(tensor) > images else own

        if tap != PENULTIMATE:
            return self._modules_of_taps[tap].register_forward_hook(lambda module, args, out: keep(out))
        if self._head:
            return self._head[0].register_forward_pre_hook(lambda module, args: keep(args[0]))
        return self.network.register_forward_hook(lambda module, args, out: None)

    def _backward_counter(self, images: int) -> Callable[[Tensor], None]:
        """Counts one backward pass of this forward pass each time a gradient runs through it.

        A gradient may enter at the logits or at a tap and may leave at a tap or at the input, so all of them are
        watched; the place that saw most gradients says how many backward passes there were.
        """
        counted = 0

        def watch(tensor: Tensor) -> None:
            if not tensor.requires_grad:
                return
            here = 0

            def fired(gradient: Tensor) -> None:
                nonlocal here, counted
                here += 1
                if here > counted:
                    counted = here
                    self.passes.spend(backward=images)

            tensor.register_hook(fired)

        return watch


def _filled(images: Tensor) -> Tensor:
    """The images, and grey ones (zeros after normalisation) behind them up to a multiple of ``FILL``."""
    spare = -len(images) % FILL
    return F.pad(images, (0,) * 7 + (spare,)) if spare else images


def _first(tensor: Tensor, images: int) -> Tensor:
    """Without the filling. A slice of everything would still cost two kernels in each backward pass."""
    return tensor if len(tensor) == images else tensor[:images]


def _head_of(network: nn.Module, num_classes: int) -> nn.Module:
    """The module that makes the logits: the last linear layer or 1×1 convolution with ``num_classes`` outputs.

    A network may end in such a convolution and average afterwards (SqueezeNet does, with a ReLU between them): its
    averaged penultimate features do not lie on the way to the logits, so no gradient of the logits leaves there.
    """
    heads = [
        module
        for module in network.modules()
        if (isinstance(module, nn.Linear) and module.out_features == num_classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == num_classes and module.kernel_size == (1, 1))
    ]
    if not heads:
        raise SetupError(
            f"a classifier needs an nn.Linear or a 1×1 nn.Conv2d with {num_classes} outputs for its penultimate tap",
            "end the network with one",
        )
    return heads[-1]
