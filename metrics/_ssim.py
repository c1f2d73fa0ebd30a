"""Structural similarity of pairs of images, from whichever library is quick where the images are."""

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from bench.contract import Undefined

TAPS, SIGMA = 11, 1.5  # the Gaussian window, px: both libraries cut it at 3.5 sigma
BLOCK, BLOCK_ON_CPU = 2**22, 2**16  # intensities of one side at once: about 1 GiB; what fits the cache


def too_small(images: Tensor) -> Undefined | None:
    """Why (N, C, H, W) images have no SSIM, or None."""
    height, width = images.shape[2:]
    return Undefined(f"the window has {TAPS} px, the images {height}×{width}") if min(height, width) < TAPS else None


def ssim(first: Tensor, second: Tensor, *, k1: float = 0.01) -> Tensor:
    """(N,) float64 SSIM of (N, C, H, W) images in [0, 1] with their partners, N ≥ 1, both sides at least 11 px.

    An 11-tap Gaussian window of sigma 1.5 px, population covariance, data range 1, K2 = 0.03; each channel by itself,
    then the mean over channels and over the places where the whole window lies inside the image. In float64: almost
    flat places cancel so many digits that float32 is 5e-5 off.

    Args:
        k1: the constant K1 of the luminance term, which tends to 1 as K1 grows.
    """
    places = torch.arange(len(first), device=first.device)
    return ssim_of_pairs(first, second, places, places, k1=k1)


def ssim_of_pairs(first: Tensor, second: Tensor, rows: Tensor, columns: Tensor, *, k1: float = 0.01) -> Tensor:
    """(L,) float64 SSIM of ``first[rows[l]]`` with ``second[columns[l]]``, L ≥ 1; the rest as in ``ssim``."""
    size = max(1, (BLOCK_ON_CPU if first.device.type == "cpu" else BLOCK) // first[0].numel())
    parts = zip(rows.split(size), columns.split(size), strict=True)
    return torch.cat([_of_block(first[ours].double(), second[theirs].double(), k1) for ours, theirs in parts])


def _of_block(first: Tensor, second: Tensor, k1: float) -> Tensor:
    # In float64, torch convolves on a CPU 5 (MNIST) to 50 (224 px) times slower than scikit-image filters. The two
    # agree to 1e-14 (tested), so that the choice moves no number.
    places = (_with_scikit_image if first.device.type == "cpu" else _with_torchmetrics)(first, second, k1)
    border = TAPS // 2  # there the window hangs over the edge
    return places.view_as(first)[:, :, border:-border, border:-border].mean((1, 2, 3))


def _with_scikit_image(first: Tensor, second: Tensor, k1: float) -> Tensor:
    """SSIM at every place, of (B, C, H, W) float64 images on the CPU.

    The images lie below each other in one tall picture: in the places that count, the window sees its own image only.
    """
    tall = (-1, first.shape[3])
    settings = {"gaussian_weights": True, "sigma": SIGMA, "use_sample_covariance": False, "data_range": 1.0, "K1": k1}
    sides = (images.reshape(tall).numpy() for images in (first, second))
    _, places = structural_similarity(*sides, full=True, **settings)
    return torch.from_numpy(places)


def _with_torchmetrics(first: Tensor, second: Tensor, k1: float) -> Tensor:
    """SSIM at every place, of (B, C, H, W) float64 images on any device."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds to load

    ours, theirs = (images.flatten(0, 1)[:, None] for images in (first, second))  # (B · C, 1, H, W)
    _, places = structural_similarity_index_measure(
        ours, theirs, sigma=SIGMA, kernel_size=TAPS, data_range=1.0, k1=k1, reduction="none", return_full_image=True
    )
    return places
