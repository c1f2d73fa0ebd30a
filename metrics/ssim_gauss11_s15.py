"""Structural similarity between a reconstruction and its original."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images

TAPS, SIGMA = 11, 1.5  # the Gaussian window, px
C1, C2 = 0.01**2, 0.03**2  # (K1 · data range)², (K2 · data range)²
BATCH = 32  # images at once: bounds the memory at 224 px to about 1 GiB


@metric(
    unit="ssim",
    better="higher",
    per="image",
    bounds=(-1.0, 1.0),
    tracks=("reconstruction",),
    id="ssim_gauss11_s1.5_dr1_rgb",
)
def ssim_gauss11_s15(generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """SSIM with an 11-tap Gaussian window of sigma 1.5 px, data range 1, K1 = 0.01, K2 = 0.03.

    Each channel by itself, then the mean over channels ("rgb"; a grey image has one) and over the places where the
    whole window lies inside the image. Equal to scikit-image's ``structural_similarity(gaussian_weights=True,
    use_sample_covariance=False, data_range=1, channel_axis=0)``.
    Source: Wang et al. 2004, equations 13–16, doi:10.1109/TIP.2003.819861.
    Written out here because the batched libraries convolve with 121 taps, seconds an image in float64 on a CPU, and in
    float32 are off by 2e-4 where images are flat.

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
    parts = zip(torch.split(generated, BATCH), torch.split(real, BATCH), strict=True)
    return torch.cat([_ssim(ours.double(), theirs.double()) for ours, theirs in parts])


def _ssim(generated: Tensor, real: Tensor) -> Tensor:
    """(B,) mean of the similarity over channels and over the places where the whole window fits."""
    rows, columns = (_window(length, generated.device) for length in generated.shape[2:])

    def local(images: Tensor) -> Tensor:  # weighted mean of each place's window, (B, C, H − 10, W − 10)
        return rows @ images @ columns.T

    mean, real_mean = local(generated), local(real)
    variances = local(generated.square()) - mean.square() + local(real.square()) - real_mean.square()
    covariance = local(generated * real) - mean * real_mean
    luminance = (2 * mean * real_mean + C1) / (mean.square() + real_mean.square() + C1)
    return (luminance * (2 * covariance + C2) / (variances + C2)).mean((1, 2, 3))


def _window(length: int, device: torch.device) -> Tensor:
    """(length − 10, length) float64: row i holds the Gaussian taps of the window that starts at place i."""
    places = torch.arange(length, dtype=torch.float64, device=device)
    offsets = places - places[: length - TAPS + 1, None] - TAPS // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2)) * (offsets.abs() <= TAPS // 2)
    return weights / weights.sum(1, keepdim=True)
