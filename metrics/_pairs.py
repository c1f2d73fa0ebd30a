"""Unordered pairs of the images of one class, and distances averaged over them."""

import hashlib

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import Undefined
from metrics._shared import shared
from metrics._ssim import ssim_of_pairs

ROUNDING = 1e-12  # a mean distance below it is that of equal images


def choose_pairs(count: int, most: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two (L,) int64 tensors: which of ``count`` images make pairs; no pair comes twice.

    All pairs where they are not more than ``most``. Otherwise image i with image i + s (counted round) for
    ``most // count`` strides s, but at least one, at equal distances up to half the count: every image is in equally
    many pairs, near and far ones, and the mean over them is that over all pairs for images in no special order.
    """
    if count * (count - 1) // 2 <= most:
        first, second = torch.triu_indices(count, count, offset=1, device=device)
        return first, second
    half = (count - 1) // 2  # a larger stride would meet a pair again from its other end
    strides = max(1, most // count)
    step = torch.arange(1, strides + 1, device=device) * half // strides
    start = torch.arange(count, device=device)
    return start.repeat(strides), (start + step[:, None]).flatten() % count


def own_order(images: Tensor) -> Tensor:
    """(N,) int64: images in the order of sha256 of their bytes: as good as random, and the same however they come."""
    keys = [hashlib.sha256(image.numpy().tobytes()).digest() for image in images.detach().cpu()]
    return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__), dtype=torch.int64, device=images.device)


def too_few(generated: int, real: int | None = None) -> Undefined | None:
    """Why so many images, on one side or on both, make no pair, or None."""
    if generated >= 2 and (real is None or real >= 2):
        return None
    found = generated if real is None else f"{generated} generated and {real} real"
    return Undefined(f"a pair needs 2 images of the class, got {found}")


def without_direction(**features: Tensor) -> Undefined | None:
    """Why some row of (N, D) features has no angle to the others, or None: it is all zero."""
    for name, rows in features.items():
        zeros = int((rows == 0).all(1).sum())
        if zeros:
            return Undefined(f"{zeros} of {len(rows)} {name} are all zero and have no direction")
    return None


@shared
def mean_pair_rmse(images: Tensor) -> Tensor:
    """() float64: root-mean-square pixel distance, averaged over all unordered pairs of (N, C, H, W), N ≥ 2."""
    flat = images.double().flatten(start_dim=1)  # (N, P)
    distances: Tensor = torch.pdist(flat)
    return distances.mean() / flat.shape[1] ** 0.5


@shared
def mean_pair_dissimilarity(images: Tensor, pairs: int) -> Tensor:
    """() float64: 1 − SSIM averaged over ``choose_pairs`` of (N, C, H, W) in their own order, N ≥ 2."""
    order = own_order(images)
    first, second = choose_pairs(len(images), pairs, images.device)
    return (1 - ssim_of_pairs(images, images, order[first], order[second]).mean()).clamp(
        min=0
    )  # rounding can take it below


@shared
def mean_pair_cosine_distance(features: Tensor) -> Tensor:
    """() float64: 1 − cosine averaged over all unordered pairs of (N, D) rows, N ≥ 2, no row zero.

    1 − cos(u, v) = ½‖u − v‖² for unit vectors, and the mean of that over all pairs is the sum of the unbiased
    variances: nothing grows with N².
    """
    return F.normalize(features.double(), dim=1).var(0).sum()
