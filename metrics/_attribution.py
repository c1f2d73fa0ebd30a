"""Curves of the label's probability while pixels are exchanged in the order of a map."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from bench.contract import Undefined
from bench.ops import in_batches

SWAP_BATCH = 128  # images in one forward pass of `swap_curve`: bounds the memory at 224 px


def swap_curve(
    target: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, maps: Tensor, labels: Tensor, steps: int
) -> Tensor:
    """(N, steps + 1) float64 probability of the label while the pixels of ``start`` become those of ``end``.

    Column k has the round(k/steps · H·W) most important pixels of each image swapped, all channels of a pixel together;
    pixels of equal importance go in reading order.

    Args:
        target: (B, C, H, W) images → (B, K) logits.
        start, end: (N, C, H, W) images.
        maps: (N, H, W), larger is more important.
        labels: (N,) int64.
    """
    count, height, width = maps.shape
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    place = order.argsort(dim=1).view(count, 1, height, width)  # 0 for the most important pixel
    columns = []
    with torch.no_grad():
        for step in range(steps + 1):
            images = torch.where(place < round(step / steps * height * width), end, start)
            probabilities = in_batches(target, images, SWAP_BATCH).double().softmax(1)
            columns.append(probabilities.gather(1, labels[:, None])[:, 0])
    return torch.stack(columns, dim=1)


def mean_height(curve: Tensor) -> Tensor:
    """(N,) area under each row of (N, S) values at equal distances over [0, 1], by the trapezium rule."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


def blurred(images: Tensor, taps: int, sigma: float) -> Tensor | Undefined:
    """(N, C, H, W) images under a Gaussian, mirrored at the border; ``Undefined`` when they are too small for that.

    Args:
        taps: width of the kernel in pixels, odd.
        sigma: its standard deviation in pixels.
    """
    height, width = images.shape[2:]
    if min(height, width) <= taps // 2:
        return Undefined(f"a blur of {taps} px needs more than {taps // 2} px, the images have {height}×{width}")
    return gaussian_blur(images, [taps, taps], [sigma, sigma])


def average_ranks(rows: Tensor) -> Tensor:
    """(N, P) float64 ranks, from 1 to P, of the numbers of each row; equal ones share the mean of their ranks."""
    ordered = rows.sort(dim=1).values
    below = torch.searchsorted(ordered, rows, side="left")
    not_above = torch.searchsorted(ordered, rows, side="right")
    return (below + not_above + 1).double() / 2
