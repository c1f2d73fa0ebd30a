"""Train an up-convolutional network, on features of training images, to give the image back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import BudgetExceeded, ReconstructionTask, Task, method
from bench.ops import finite, in_batches, step_factor

BATCH = 64  # references in one pass through the subject: bounds the memory
SLOPE = 0.2  # of the leaky ReLU
SMALLEST = (4, 4)  # the map that a vector is turned into has at least these sides
HIDDEN = 512  # units of the two layers in front of that map


@method(
    source="Dosovitskiy & Brox 2016, section 3, arXiv:1506.02753",
    differs="trained on the few references of the task instead of ImageNet, hence narrower and in few steps; two"
    " convolutions before the up-convolutions and one after them; features are standardised; the network gives what is"
    " added to the references' mean image; tokens of no patch are left out; Adam with decoupled weight decay and a"
    " cosine to zero; batches of 16",
)
@dataclass(frozen=True, kw_only=True)
class LearnedDecoder:
    """Minimise the mean of (f(Φ(x)) − x)² over the references x, Φ(x) their features; then show f(Φ₀).

    Each reference goes through the subject once, in `fit`; the decoder's own steps cost no passes. Features stay in
    memory for all references.
    """

    steps: int = 2000  # of the decoder, at most
    epochs: int = 100  # no reference is seen more often than this: few references end the steps early
    batch_size: int = 16  # references of a step, all of them where there are fewer
    step_size: float = 3e-3  # AdamW's, falls to 0 as a cosine
    weight_decay: float = 0.1  # AdamW's: a step takes this share of the step size off each weight
    width: int = 16  # channels at the image's resolution and half of it; doubled at each further halving, up to 8 times

    def why_not(self, task: ReconstructionTask) -> str | None:
        """The references' features have to fit the budget, and be vectors, maps or tokens."""
        if task.wanted.ndim not in (2, 3, 4):
            return f"needs features (B, D), (B, D, H, W) or (B, tokens, D), {task.tap} has {task.wanted.ndim} axes"
        return _too_dear(task)

    def fit(self, task: ReconstructionTask) -> nn.Module:
        """Return the trained decoder: (B, …) features of the tap → (B, C, H, W) intensities, not clipped.

        Raises:
            BudgetExceeded: there are more references than passes in the whole cell.
        """
        reason = _too_dear(task)
        if reason:
            raise BudgetExceeded(reason)
        images, image_size = task.references, task.model.image_shape[1:]
        with torch.no_grad():
            maps = in_batches(lambda part: _as_map(task.model.features(part, task.tap), image_size), images, BATCH)
        decoder = _decoder(maps, images, self.width)
        one = task.replace(places=task.places[:1])  # one decoder for all images: it draws as the first of them would
        _initialise(decoder, one)
        self._train(decoder, maps, images, one)
        return decoder.requires_grad_(False).eval()

    def _train(self, decoder: nn.Module, maps: Tensor, images: Tensor, task: Task) -> None:
        """Go through the references in ever new orders until the steps are done."""
        size = min(self.batch_size, len(images))
        steps = min(self.steps, self.epochs * len(images) // size)
        rounds = math.ceil(steps * size / len(images))
        order = task.draws("order", rounds, len(images), law="uniform")[0].argsort(1).flatten()
        optimiser = torch.optim.AdamW(decoder.parameters(), lr=self.step_size, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: step_factor(step, steps, 0))
        for chosen in order[: steps * size].split(size):
            loss = F.mse_loss(decoder(maps[chosen]), images[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    def reconstruct(self, task: ReconstructionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b from the features ``task.wanted[b]``."""
        maps = _as_map(task.wanted, task.model.image_shape[1:])
        with torch.no_grad():
            images: Tensor = finite(task.fitted(maps)).clamp(0.0, 1.0)
        return images


def _too_dear(task: ReconstructionTask) -> str | None:
    """Why the references do not fit the cell's budget, or None."""
    needed, allowed = len(task.references), task.budget * len(task)
    return f"needs a pass for each of {needed} references, the cell has {allowed}" if needed > allowed else None


# ---- the decoder ---------------------------------------------------------------------------------------------------


def _as_map(features: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(B, D, h, w) of a tap's tensor: vectors are 1×1 maps, tokens lie on a grid of the image's proportions.

    Tokens that belong to no patch (class, distillation, registers) come first and are left out.
    """
    if features.ndim == 4:
        return features
    if features.ndim == 2:
        return features[..., None, None]
    height, width = image_size
    rows = math.isqrt(features.shape[1] * height // width)
    columns = rows * width // height
    maps: Tensor = features[:, -rows * columns :].mT.unflatten(2, (rows, columns))
    return maps


def _decoder(maps: Tensor, images: Tensor, width: int) -> nn.Sequential:
    """A decoder for such maps and images, its weights not yet set: torch draws none on the meta device."""
    channels, *map_size = maps.shape[1:]
    is_vector = map_size == [1, 1]
    sizes = _sizes(images.shape[2:], SMALLEST if is_vector else map_size)
    widths = [min(width * 2 ** max(halvings - 1, 0), 8 * width) for halvings in reversed(range(len(sizes)))]
    with torch.device("meta"):
        start = _from_vector(channels, widths[0], sizes[0]) if is_vector else _from_map(channels, widths[0], sizes[0])
        ups = [_Up(fan_in, fan_out, size) for (fan_in, fan_out), size in zip(pairwise(widths), sizes[1:], strict=True)]
        last = nn.Conv2d(widths[-1], images.shape[1], 3, padding=1)
    return nn.Sequential(_Standardise(maps), *start, *ups, last, _Added(images.mean(0))).to_empty(device=images.device)


def _sizes(image_size: Sequence[int], least: Sequence[int]) -> list[tuple[int, ...]]:
    """Sizes from the smallest to the image's, each half of the next rounded up, none smaller than ``least``."""
    sizes = [tuple(image_size)]
    while True:
        half = tuple(-(-side // 2) for side in sizes[0])
        if half == sizes[0] or any(side < wanted for side, wanted in zip(half, least, strict=True)):
            return sizes
        sizes.insert(0, half)


def _from_vector(channels: int, width: int, size: tuple[int, ...]) -> list[nn.Module]:
    """(B, D, 1, 1) → (B, width, h, w) by fully connected layers."""
    fan_ins = (channels, HIDDEN, HIDDEN, width * math.prod(size))
    layers = [layer for pair in pairwise(fan_ins) for layer in (nn.Linear(*pair), nn.LeakyReLU(SLOPE))]
    return [nn.Flatten(), *layers, nn.Unflatten(1, (width, *size))]


def _from_map(channels: int, width: int, size: tuple[int, ...]) -> list[nn.Module]:
    """(B, D, h', w') → (B, width, h, w) by convolutions, the map resized to h × w where it has another size."""
    convolutions = (nn.Conv2d(fan_in, width, 3, padding=1) for fan_in in (channels, width))
    layers = [layer for convolution in convolutions for layer in (convolution, nn.LeakyReLU(SLOPE))]
    return [nn.Upsample(size, mode="bilinear"), *layers]


class _Up(nn.ConvTranspose2d):
    """Twice the resolution, or one pixel less where the size asked for is odd; then a leaky ReLU."""

    def __init__(self, fan_in: int, fan_out: int, size: tuple[int, ...]) -> None:
        super().__init__(fan_in, fan_out, 5, stride=2, padding=2)
        self.size = list(size)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, D, h, w) → (B, D', *size)."""
        return F.leaky_relu(super().forward(maps, self.size), SLOPE)


class _Standardise(nn.Module):
    """Take each channel of a map to mean 0 and spread 1 of the maps it was made from."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        spread, self.mean = torch.std_mean(maps, dim=(0, 2, 3), keepdim=True, correction=0)
        # a channel that hardly moves is not blown up: another image may move it more
        self.spread = spread.clamp_min(1e-3 * spread.max().item()).clamp_min(1e-12)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) → the same."""
        return (maps - self.mean) / self.spread


class _Added(nn.Module):
    """Add one image to all."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return images + self.image


@torch.no_grad()
def _initialise(decoder: nn.Module, task: Task) -> None:
    """Normal weights whose spread keeps the signal's size through leaky ReLUs, from the task's numbers; biases 0."""
    layers = [layer for layer in decoder.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
    numbers = task.draws("weights", sum(layer.weight.numel() for layer in layers))[0]
    for layer, own in zip(layers, numbers.split([layer.weight.numel() for layer in layers]), strict=True):
        if isinstance(layer, nn.ConvTranspose2d):  # an output sees a part of the kernel: the stride skips the others
            seen = layer.weight[:, 0].numel() / math.prod(layer.stride)
        else:
            seen = layer.weight[0].numel()
        layer.weight.copy_(own.view_as(layer.weight) * math.sqrt(2 / (1 + SLOPE**2) / seen))
        assert layer.bias is not None
        layer.bias.zero_()
