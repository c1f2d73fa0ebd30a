"""Structural similarity at five scales between a reconstruction and its original."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images
from metrics._ssim import TAPS, ssim

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, from fine to coarse
SMALLEST = (TAPS - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # px: the window must lie inside the coarsest scale
BATCH = 64  # images at once: bounds the memory
NO_LUMINANCE = 1e9  # as K1 it makes the luminance term 1 in float64, which leaves contrast times structure


@metric(
    unit="ssim",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("reconstruction",),
    id="ms_ssim_gauss11_s1.5_5scales_dr1_rgb",
)
def ms_ssim(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """SSIM at the coarsest of five scales times contrast and structure at the four finer ones, each to its weight.

    SSIM_5^β5 · Π_{s<5} CS_s^βs  with β = .0448 .2856 .3001 .2363 .1333; from scale to scale, means of 2 × 2 pixels
    (of those that are there, at the far edge of an odd side).
    The window, the constants and the mean over places inside the image are those of ``ssim_gauss11_s15``; each channel
    by itself, then the mean over channels. A negative factor (a scale that is anticorrelated) has no real power: it is
    0, as in TensorFlow and torchmetrics, and so is the product. torchmetrics' own function averages the coarsest scale
    over reflected borders too and the channels before the powers: on photographs it is up to .004 off this definition,
    and .1 where a factor is near 0.
    Source: Wang, Simoncelli & Bovik 2003, equation 7 and section 3.2, doi:10.1109/ACSSC.2003.1292216.
    Beware: one anticorrelated scale makes 0 of an otherwise fair image, and the weights were fitted to human judgement
    of distorted photographs, not of reconstructions. Small images have no value: nothing is resized for it.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.

    Returns:
        (N,) float64 in [0, 1], 1 for equal images; ``Undefined`` for no images, or a side below 161 px, where the
        window does not fit the coarsest scale.

    Raises:
        ShapeError: unequal shapes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    if not len(generated):
        return Undefined("there are no images")
    height, width = generated.shape[2:]
    if min(height, width) < SMALLEST:
        return Undefined(f"five scales of an {TAPS} px window need {SMALLEST} px, the images have {height}×{width}")
    parts = zip(generated.split(BATCH), real.split(BATCH), strict=True)
    return torch.cat([_of_batch(ours.double(), theirs.double()) for ours, theirs in parts])


def _of_batch(generated: Tensor, real: Tensor) -> Tensor:
    """(B,) for two batches of (B, C, H, W) float64 images."""
    count, channels = generated.shape[:2]
    sides = [images.flatten(0, 1)[:, None] for images in (generated, real)]  # (B · C, 1, H, W)
    value = torch.ones(count * channels, dtype=torch.float64, device=generated.device)
    for weight in WEIGHTS[:-1]:
        value *= ssim(*sides, k1=NO_LUMINANCE).clamp(min=0) ** weight
        sides = [F.avg_pool2d(images, 2, ceil_mode=True) for images in sides]
    value *= ssim(*sides).clamp(min=0) ** WEIGHTS[-1]
    return value.view(count, channels).mean(1)
