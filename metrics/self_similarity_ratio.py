"""How strongly an image repeats itself, measured by how strongly a real image does."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, in_batches

BATCH = 32  # images in one Fourier transform: bounds the memory
SMALLEST = 8  # pixels of a side; below, an eighth of it is no pixel
SHARE = 1 / 16  # of the energy that both overlapping parts must hold


@metric(
    unit="ratio",
    better="neither",
    per="image",
    bounds=(0.0, None),
    tracks=("visualization",),
    partial=True,
    id="self_similarity_ratio_peak_beyond_eighth",
)
def self_similarity_ratio(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """Highest peak of an image's autocorrelation off its centre, over the mean peak of the real images.

    r(v) = Σ d_c(p) d_c(p + v) / √(Σ d_c(p)² · Σ d_c(p + v)²),  peak = max r(v) over |v| ≥ 1/8, |v_i| ≤ 1/2,
    the value of image n is peak(x_n) / mean_m peak(r_m)
    d is the image less its mean over a box of an eighth of its side, so that light and shade do not count as
    repetition; the sums go over channels and over the pixels p for which p and p + v both lie in the image. v counts in
    sides of the image: what is nearer than an eighth is the central lobe, what is farther than a half leaves little to
    compare, as do the v for which one of the two parts has less than 1/16 of the energy. No peak is below 0. 1 is like
    reality; tiles and repeated patterns are above, noise below. The mean of the values is the ratio of the mean peaks.
    Source: the self-similarity peak of this project's protocol for feature visualizations [our choice]; no value to
    match.
    Beware: straight edges and stripes repeat themselves along their direction, in photographs too, and a strong blur
    leaves few waves, which agree by chance. Peaks were 0.18 for photographs of ten classes at 224 px, 0.99 tiled, 0.46
    tiled under noise, 0.29 blurred, 0.02 for noise alone; at 32 px 0.26, 0.97, 0.34, 0.73 and 0.09. Copies that are
    turned, scaled or distorted do not count, and 1 is no sign of realism.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (M, C, H, W) real images.

    Returns:
        (N,) float64, NaN for an image without any detail, which is left out. ``Undefined`` when a side is below 8
        px, no generated image has detail, or no real one repeats itself.

    Raises:
        ShapeError: other axes, unequal sizes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "M C H W"))
    check_images(generated=generated, real=real)
    if not len(generated) or not len(real):
        return Undefined(f"needs images on each side, got {len(generated)} generated and {len(real)} real")
    if min(generated.shape[2:]) < SMALLEST:
        return Undefined(f"sides below {SMALLEST} px have no place for a pattern, got {tuple(generated.shape[2:])}")
    ours, usual = in_batches(_peak, generated, BATCH), in_batches(_peak, real, BATCH).nanmean()
    if not usual > 0:  # also where no real image has any detail
        return Undefined("no real image repeats itself")
    if ours.isnan().all():
        return Undefined("no generated image has any detail")
    return ours / usual


def _peak(images: Tensor) -> Tensor:
    """(B,) float64 highest correlation off the centre, NaN for images without detail."""
    detail = _detail(images)
    height, width = images.shape[2:]
    size = (height + height // 2, width + width // 2)  # a shift by half a side meets no pixel from the other end
    products = torch.fft.irfft2(torch.fft.rfft2(detail, s=size).abs().square().sum(1), s=size)
    energy = torch.fft.rfft2(detail.square().sum(1), s=size)
    inside = torch.fft.rfft2(detail.new_ones(height, width), s=size)
    # what a shift leaves of the energy, in the one part and in the other
    parts = [torch.fft.irfft2(spectrum, s=size) for spectrum in (energy * inside.conj(), energy.conj() * inside)]
    whole = detail.square().sum((1, 2, 3))[:, None, None]
    counts = _shifts(height, width, size, images.device) & (parts[0] >= SHARE * whole) & (parts[1] >= SHARE * whole)
    sizes = torch.where(counts, parts[0] * parts[1], 1.0).sqrt()
    peaks = torch.where(counts, products / sizes, 0.0).clamp(max=1.0).amax((1, 2))
    return torch.where(whole[:, 0, 0] > 0, peaks, torch.nan)


def _detail(images: Tensor) -> Tensor:
    """(B, C, H, W) float64 the images less their mean over a box, of the pixels of it that lie in the image."""
    wide = images.double()
    mean = wide
    for axis, side in enumerate(images.shape[2:]):  # a mean over rows of means over columns: far fewer sums
        box = [1, 1]
        box[axis] = max(3, side // 8 | 1)
        mean = F.avg_pool2d(mean, box, 1, [width // 2 for width in box], count_include_pad=False)
    flat = (images == images[:, :, :1, :1]).flatten(2).all(2)  # what rounding leaves of them has correlations too
    return (wide - mean).masked_fill(flat[..., None, None], 0)


def _shifts(height: int, width: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """(size) bool: at least an eighth of a side long, no further than half a side along each axis."""
    down, right = (torch.fft.fftfreq(side, 1 / side, dtype=torch.float64, device=device) for side in size)
    near = (down.abs() <= height // 2)[:, None] & (right.abs() <= width // 2)
    return near & ((down[:, None] / height) ** 2 + (right / width) ** 2 >= 1 / 64 - 1e-12)
