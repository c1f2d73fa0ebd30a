"""Structural similarity between a reconstruction and its original."""

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images

TAPS, SIGMA = 11, 1.5  # the Gaussian window, px: scikit-image cuts it at 3.5 sigma


@metric(
    unit="ssim",
    better="higher",
    per="image",
    bounds=(-1.0, 1.0),
    tracks=("reconstruction",),
    id="ssim_gauss11_s1.5_dr1_rgb",
)
def ssim_gauss11_s15(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """SSIM with an 11-tap Gaussian window of sigma 1.5 px, data range 1, K1 = 0.01, K2 = 0.03.

    Each channel by itself, then the mean over channels ("rgb"; a grey image has one) and over the places where the
    whole window lies inside the image: scikit-image's ``structural_similarity(gaussian_weights=True,
    use_sample_covariance=False, data_range=1, channel_axis=0)``.
    Source: Wang et al. 2004, equations 13–16, doi:10.1109/TIP.2003.819861.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.

    Returns:
        (N,) float64 in [−1, 1], 1 for equal images; ``Undefined`` for no images, or a side below 11 px.

    Raises:
        ShapeError: unequal shapes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    if not len(generated):
        return Undefined("there are no images")
    height, width = generated.shape[2:]
    if min(height, width) < TAPS:
        return Undefined(f"the window has {TAPS} px, the images {height}×{width}")
    # One image at a time: the batched libraries differ from the reference by the border or by float32.
    pairs = zip(generated.double().cpu().numpy(), real.double().cpu().numpy(), strict=True)
    return torch.tensor([_ssim(ours, theirs) for ours, theirs in pairs], dtype=torch.float64, device=generated.device)


def _ssim(generated: NDArray[np.float64], real: NDArray[np.float64]) -> float:
    """SSIM of two (C, H, W) images."""
    settings = {"gaussian_weights": True, "sigma": SIGMA, "use_sample_covariance": False}
    return float(structural_similarity(generated, real, data_range=1.0, channel_axis=0, **settings))
