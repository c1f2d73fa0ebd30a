"""How much of an image's energy is in fine detail, measured by how much of a real image's is."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, in_batches

BATCH = 32  # images in one Fourier transform: bounds the memory


@metric(
    unit="ratio",
    better="neither",
    per="image",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    partial=True,
    id="high_frequency_ratio_mirrored_half_nyquist",
)
def high_frequency_ratio(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """Share of an image's spectral energy above half the Nyquist frequency, over the mean share of the real images.

    h(x) = Σ_{|f| > 1/4} |X_c(f)|² / Σ_f |X_c(f)|²,  the value of image n is h(x_n) / mean_m h(r_m)
    X_c is the discrete Fourier transform of channel c, less its mean and mirrored at its edges; |f| is the distance
    from frequency 0 in cycles a pixel, so half of the Nyquist frequency is 1/4; the sums go over all channels too.
    Not mirrored, the jump from one border to the opposite one would be most of a photograph's fine detail, and blur
    could hardly lower the share. The mean of the values is the ratio of the two sets' mean shares. 1 is like reality;
    checkerboards and noise are above, blur below.
    Source: this ratio is the definition; no paper to match.
    Beware: one number of a whole spectrum: noise on top of blur can give 1, and so does any real image whatever the
    class. Contrast does not enter, so a nearly grey image with a trace of noise counts like pure noise.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (M, C, H, W) real images.

    Returns:
        (N,) float64, 0 for an image without fine detail; NaN for one whose channels are constant, which has no energy
        and is left out. ``Undefined`` when no generated image has energy, or no real one has fine detail.

    Raises:
        ShapeError: other axes, unequal sizes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "M C H W"))
    check_images(generated=generated, real=real)
    if not len(generated) or not len(real):
        return Undefined(f"needs images on each side, got {len(generated)} generated and {len(real)} real")
    ours, usual = in_batches(_share, generated, BATCH), in_batches(_share, real, BATCH).nanmean()
    if not usual > 0:  # also where no real image has any energy
        return Undefined("no real image has energy above half the Nyquist frequency")
    if ours.isnan().all():
        return Undefined("every generated image is constant")
    return ours / usual


def _share(images: Tensor) -> Tensor:
    """(B,) share of the energy above half the Nyquist frequency, NaN for constant images."""
    centred = images.double() - images.double().mean((2, 3), keepdim=True)
    flat = (images == images[:, :, :1, :1]).flatten(2).all(2)
    centred = centred.masked_fill(
        flat[..., None, None], 0
    )  # what rounding left of a constant channel has a spectrum too
    mirrored = torch.cat([centred, centred.flip(2)], 2)
    mirrored = torch.cat([mirrored, mirrored.flip(3)], 3)  # (B, C, 2H, 2W)
    energy = torch.fft.fft2(mirrored).abs().square().sum(1)
    down, right = (torch.fft.fftfreq(side, dtype=torch.float64, device=images.device) for side in energy.shape[1:])
    fine = down[:, None] ** 2 + right**2 > 1 / 16 + 1e-12  # by rounding, 1/4 itself could seem larger
    share: Tensor = energy[:, fine].sum(1) / energy.sum((1, 2))  # 0 / 0 is NaN
    return share
