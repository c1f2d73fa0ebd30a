"""The generator: latent and condition in, images in [0, 1] out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.conditioned_generator.conditions import cross_side, factored_cross, hot_matrix
from bench.contract import SetupError

Condition = Literal["label", "soft", "one_hot", "none"]
Matrix = Literal["none", "auto", "square", "cross"]
Body = Literal["transposed", "resize"]


@dataclass(frozen=True)
class Stage:
    """One up-convolution.

    Args:
        width: channels it makes, in units of the generator's width; 0 for the picture's channels.
        side: of the map it makes from the side before it.
        kernel, stride, padding: of the transposed convolution.
    """

    width: int
    side: int
    kernel: int = 4
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Chain:
    """All stages of a body: the matrix joins the map between ``early`` and ``late``."""

    early: tuple[Stage, ...]
    late: tuple[Stage, ...]
    upsampled: bool = False  # resize and convolve in any body, the first stage excepted


EARLY = (Stage(1, 4), Stage(2, 7), Stage(4, 10))
LATE_28 = (Stage(8, 11, 4, 1, 1), Stage(4, 12, 4, 1, 1), Stage(2, 24, 4, 2, 1), Stage(1, 27), Stage(0, 28, 4, 1, 1))
LATE_32 = (Stage(8, 13), Stage(4, 16), Stage(2, 32, 4, 2, 1), Stage(0, 32, 3, 1, 1))
LATE_224 = (Stage(4, 56), Stage(2, 112), Stage(1, 224), Stage(0, 224))
CHAINS = {  # largest side of a picture → its chain; what it makes is resized to other sides
    28: Chain(EARLY, LATE_28),
    64: Chain(EARLY, LATE_32),
    1024: Chain((Stage(8, 7, 7), Stage(4, 14), Stage(4, 32)), LATE_224, upsampled=True),
}


def chain_for(image_shape: Sequence[int]) -> Chain:
    """The stages for pictures of (C, H, W): group code's for 28 pixels, ours for 32 and 224 [our choice].

    Raises:
        SetupError: the picture is larger than any chain is made for.
    """
    side = max(image_shape[1:])
    for largest, chain in CHAINS.items():
        if side <= largest:
            return chain
    raise SetupError(f"a picture of {side} pixels", f"generators make up to {max(CHAINS)}")


def fitting_matrix(matrix: Matrix, classes: int, image_shape: Sequence[int]) -> Matrix:
    """The matrix itself; for "auto" the square one where it fits the picture and 28 pixels, else the cross.

    Raises:
        SetupError: a square matrix that is larger than the picture.
    """
    smallest = min(image_shape[1:])
    if matrix == "auto":
        return "square" if classes <= min(smallest, 28) else "cross"
    if matrix == "square" and classes > smallest:
        raise SetupError(
            f"a hot matrix of {classes}x{classes} does not fit a picture of {smallest} pixels",
            f"matrix=cross has {cross_side(classes)}x{cross_side(classes)} for {classes} classes",
        )
    return matrix


class Generator(nn.Module):
    """Up-convolutions from [latent; condition] to a picture, the label's matrix put in on the way.

    The order (convolution, batch norm, channel dropout, ReLU), and widths and kernels for 28 pixels, are group code's
    [group code]; the squashing to [0, 1], other sizes and the second body are ours [our choice]. It draws nothing
    itself: what dropout keeps comes in as numbers.

    Args:
        classes: N, conditioned classes.
        image_shape: (C, H, W).
        condition: what joins the latent: an embedding of the label, a linear map of a distribution, or nothing.
        matrix: what joins the map between early and late stages.
        body: "transposed", or "resize": nearest resize and a 3×3 convolution from the second stage on, which leaves
            no checkerboards.
        width: channels of the first stage (ngf).
        latent: numbers of z.
        dropout: (early, late) rates of channel dropout.
        generator: draws the weights, on the CPU.
    """

    def __init__(
        self,
        *,
        classes: int,
        image_shape: tuple[int, int, int],
        condition: Condition,
        matrix: Matrix,
        body: Body,
        width: int,
        latent: int,
        dropout: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.classes, self.image_shape, self.latent = classes, image_shape, latent
        self.matrix = fitting_matrix(matrix, classes, image_shape)
        self.side = {"none": 0, "square": classes, "cross": cross_side(classes)}[self.matrix]
        chain = chain_for(image_shape)
        with torch.device("meta"):  # torch draws no weights there
            self.condition: nn.Module | None = None
            if condition == "label":
                self.condition = nn.Embedding(classes, latent)
            elif condition != "none":
                self.condition = nn.Linear(classes, latent)
            start = latent if self.condition is None else 2 * latent
            widths = [start, *(stage.width * width or image_shape[0] for stage in chain.early + chain.late)]
            blocks = [
                _Block(
                    fan_in + (1 if self.side and place == len(chain.early) else 0),
                    fan_out,
                    stage,
                    resized=place > 0 and (body == "resize" or chain.upsampled),
                    is_last=place == len(widths) - 2,
                    rate=dropout[place >= len(chain.early)],
                )
                for place, (stage, (fan_in, fan_out)) in enumerate(
                    zip(chain.early + chain.late, pairwise(widths), strict=True)
                )
            ]
        self.early, self.late = nn.ModuleList(blocks[: len(chain.early)]), nn.ModuleList(blocks[len(chain.early) :])
        self.dropped = widths[1:-1]  # channels that dropout may drop, stage by stage
        self.to_empty(device="cpu")
        self.apply(lambda module: _initialise(module, generator))

    def forward(self, latents: Tensor, distributions: Tensor, labels: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) intensities in [0, 1].

        Args:
            latents: (B, latent) z.
            distributions: (B, N) p, for "soft" and "one_hot" conditions.
            labels: (B,) int64 in [0, N), for embeddings and the matrix.
            kept: (B, sum of ``dropped``) uniform numbers: a channel stays where its number is not below the rate; None
                drops nothing.
        """
        if isinstance(self.condition, nn.Embedding):
            latents = torch.cat([latents, self.condition(labels)], 1)
        elif self.condition is not None:
            latents = torch.cat([latents, self.condition(distributions)], 1)
        maps = latents[..., None, None]  # (B, start, 1, 1)
        shares = [None] * len(self.dropped) if kept is None else list(kept.split(self.dropped, 1))
        for block, share in zip(self.early, shares, strict=False):
            maps = block(maps, share)
        if self.side:
            cross = (hot_matrix if self.matrix == "square" else factored_cross)(labels, self.classes)
            maps = torch.cat([F.interpolate(maps, (self.side, self.side)), cross.to(maps)], 1)
        for block, share in zip(self.late, [*shares[len(self.early) :], None], strict=True):
            maps = block(maps, share)
        if maps.shape[2:] != self.image_shape[1:]:
            maps = F.interpolate(maps, self.image_shape[1:])
        return maps.sigmoid()


class _Block(nn.Module):
    """One stage; the last has neither batch norm nor dropout nor ReLU."""

    def __init__(self, fan_in: int, fan_out: int, stage: Stage, *, resized: bool, is_last: bool, rate: float) -> None:
        super().__init__()
        self.side = stage.side if resized else 0
        self.convolution: nn.Module = (
            nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=is_last)
            if resized
            else nn.ConvTranspose2d(fan_in, fan_out, stage.kernel, stage.stride, stage.padding, bias=is_last)
        )
        self.norm = None if is_last else nn.BatchNorm2d(fan_out)
        self.rate = rate

    def forward(self, maps: Tensor, kept: Tensor | None) -> Tensor:
        """(B, D, h, w) → (B, D', h', w')."""
        if self.side:  # never smaller: a large matrix would lose rows
            side = max(self.side, maps.shape[-1])
            maps = F.interpolate(maps, (side, side))
        maps = self.convolution(maps)
        if self.norm is None:
            return maps
        maps = self.norm(maps)
        if kept is not None and self.rate:
            maps = maps * ((kept >= self.rate).to(maps) / (1 - self.rate))[..., None, None]
        return maps.relu()


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Kernels N(0, 0.02), batch norm 1 and 0, an orthogonal linear map [group code]; embeddings N(0, 1)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
    elif isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight, generator=generator)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
    if getattr(module, "bias", None) is not None and not isinstance(module, nn.BatchNorm2d):
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
