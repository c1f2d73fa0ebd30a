"""What the metrics on LPIPS share: checks, sizes, and the pairs within a class."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.contract import Undefined
from bench.ops import check_axes, check_images
from metrics._pairs import choose_pairs, own_order
from metrics._shared import shared

Lpips = Callable[[Tensor, Tensor], Tensor]  # two (B, C, H, W) batches in [0, 1] → (B,)

SMALLEST_ALEX = 32  # px; the last pooling of AlexNet has nothing left of 28 px
SMALLEST_VGG = 16  # px; four poolings leave one position


def too_small(images: Tensor, smallest: int, advice: str = "") -> Undefined | None:
    """The reason why (N, C, H, W) images cannot be shown to the network, or None. They are never enlarged silently."""
    if min(images.shape[2:]) >= smallest:
        return None
    size = "×".join(str(side) for side in images.shape[2:])
    return Undefined(f"the network needs {smallest} px, got {size}{advice}")


def pair_distances(lpips: Lpips, generated: Tensor, real: Tensor) -> Tensor:
    """(N,) float64 LPIPS between (N, C, H, W) images and their originals in the same order.

    Raises:
        ShapeError: unequal shapes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    return lpips(generated, real).double() if len(generated) else generated.new_zeros(0, dtype=torch.float64)


@shared
def mean_distance(images: Tensor, lpips: Lpips, pairs: int) -> Tensor:
    """() float64 mean LPIPS over ``choose_pairs`` of (N, C, H, W) images, N ≥ 2, in an order of their own.

    Which pairs are chosen depends on the order; ``own_order`` is the same in whatever order the images come.
    """
    ordered = images[own_order(images)]
    first, second = choose_pairs(len(images), pairs, images.device)
    return lpips(ordered[first], ordered[second]).double().mean()
