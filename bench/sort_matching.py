"""How far the distribution of each feature channel is from one asked for, by sorting: the loss of VITAL.

Görgün, Schiele & Fischer 2025, arXiv:2503.22399; exact histogram matching as in Zhang et al. 2022, arXiv:2203.07740.

Letters for axes: **N** images, **C** channels, **D** positions of a map, or tokens.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.contract import SetupError
from bench.ops import check_axes


def distributions(features: Tensor, prefix: int = 0) -> Tensor:
    """(N, C, D) values of each channel, of maps (N, C, H', W') or of tokens (N, tokens, C).

    Args:
        prefix: tokens to leave out at the beginning; the class token is the first.

    Raises:
        SetupError: the features have no positions: one value a channel is no distribution.
    """
    if features.ndim == 4:
        return features.flatten(2)
    if features.ndim == 3:
        return features[:, prefix:].mT.contiguous()  # sorting along strides is slower
    raise SetupError(f"features {tuple(features.shape)} have no positions", "take a tap with maps or tokens")


def sorted_mean(features: Tensor) -> Tensor:
    """(C, D) target T_c: the mean over N images of each image's sorted (N, C, D) features.

    This is the Wasserstein barycentre of the images' distributions, not the distribution of all their values together:
    what differs between the images is averaged away [derived].
    """
    check_axes(features=(features, "N C D"))
    return stable_sort(features)[0].mean(0)


def sort_matching_loss(features: Tensor, targets: Tensor) -> Tensor:
    """(N,) mean over channels and places of (sort(F)_i − T_i)², F and T (N, C, D), T ascending along D.

    The order of the values counts as constant in the gradient, 2 (F_π(i) − T_i) / (C · D). Ties are matched by
    position, so the gradient is the same on every device. One sort; nothing but the gradient is kept for the way back.

    Raises:
        ShapeError: features and targets are not (N, C, D) of equal lengths.
    """
    check_axes(features=(features, "N C D"), targets=(targets, "N C D"))
    return cast(Tensor, _SortMatching.apply(features, targets))


def stable_sort(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values in ascending order along the last axis, and where they were; equal ones keep their order.

    On a CPU each float32 number and its place go into one whole number of 64 bits: sorting those is about three
    times as fast as torch's own sort, packing included, and gives the same.
    """
    if values.device.type != "cpu" or values.dtype != torch.float32:
        ordered, places = values.sort(dim=-1, stable=True)
        return ordered, places
    bits = (values.detach() + 0.0).contiguous().view(torch.int32)  # -0.0 is 0.0 from here on: they are equal
    packed = _rising(bits).long().bitwise_left_shift_(32).bitwise_or_(torch.arange(values.shape[-1]))
    packed.numpy().sort(axis=-1)  # in place
    places = packed & 0xFFFFFFFF
    return _rising(packed.bitwise_right_shift_(32).int()).view(torch.float32), places


def _rising(bits: Tensor) -> Tensor:
    """Bits of float32 numbers as whole numbers in the same order; the same once more is the way back."""
    return (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)


class _SortMatching(torch.autograd.Function):
    """The loss with its gradient, made while the order is at hand."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, targets: Tensor) -> Tensor:
        ordered, places = stable_sort(features)
        missing = ordered - targets
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.empty_like(missing).scatter_(2, places, missing))
        return missing.square().mean((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (missing,) = ctx.saved_tensors
        return missing * (outer * (2 / missing[0].numel()))[:, None, None], None
