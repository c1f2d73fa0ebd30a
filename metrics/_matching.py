"""One-to-one matches of a method's images with real ones of their class, by structural similarity."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bench.contract import Undefined
from bench.ops import check_axes, check_images
from metrics._pairs import own_order
from metrics._shared import shared
from metrics._ssim import SIGMA, TAPS, too_small

BLOCK = 2**20  # intensities of the pairs at once: bounds memory only
LUMINANCE, CONTRAST = 0.01**2, 0.03**2  # (K1 L)² and (K2 L)² for a data range L of 1


def cannot_match(generated: Tensor, **real: Tensor) -> Undefined | None:
    """Why the images have no match in some set of real ones, or None.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    check_images(generated=generated, **real)
    for name, images in real.items():
        check_axes(generated=(generated, "N C H W"), **{name: (images, "M C H W")})
    for name, images in real.items():
        if not len(generated) or not len(images):
            sides = f"{len(generated)} generated and {len(images)} {name}"
            return Undefined(f"a match needs an image on each side, got {sides}")
    return too_small(generated)


@shared
def ssim_of_matches(generated: Tensor, real: Tensor, most: int, partners: int) -> Tensor:
    """(n,) float64 SSIM of each match, n the smaller side: of all one-to-one matches those whose sum is largest.

    Of more than ``most`` generated and ``partners`` real images, those enter whose bytes' sha256 come first: the order
    that they come in moves nothing.
    """
    similar = ssim_table(generated[own_order(generated)[:most]], real[own_order(real)[:partners]]).cpu()
    return similar[linear_sum_assignment(similar, maximize=True)].to(generated.device)


def ssim_table(first: Tensor, second: Tensor) -> Tensor:
    """(N, M) float64 SSIM of every image with every other, as ``ssim`` defines it for one pair.

    Means and variances belong to one image and are taken once for each; only the covariance is a pair's own. That is
    a fifth of the filtering, without the rest of what a library does for a pair.
    """
    ours, theirs = first.double(), second.double()
    our_mean, their_mean = _blurred(ours), _blurred(theirs)
    our_variance, their_variance = _blurred(ours.square()) - our_mean**2, _blurred(theirs.square()) - their_mean**2
    rows = []
    for part in torch.arange(len(first), device=first.device).split(max(1, BLOCK // second.numel())):
        image, mean, variance = ours[part, None], our_mean[part, None], our_variance[part, None]
        product = mean * their_mean  # (rows, M, C, H', W')
        covariance = _blurred(image * theirs) - product
        places = (2 * product + LUMINANCE) * (2 * covariance + CONTRAST)
        places /= (mean**2 + their_mean**2 + LUMINANCE) * (variance + their_variance + CONTRAST)
        rows.append(places.mean((2, 3, 4)))
    return torch.cat(rows)


def _blurred(images: Tensor) -> Tensor:
    """(…, H, W) → (…, H − 10, W − 10): the Gaussian window's mean wherever the whole window lies inside the image."""
    steps = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    weights = torch.softmax(-0.5 * (steps / SIGMA) ** 2, 0).tolist()
    for axis in (-2, -1):
        length = images.shape[axis] - TAPS + 1
        blurred = images.narrow(axis, 0, length) * weights[0]
        for start, weight in enumerate(weights[1:], 1):
            blurred.add_(images.narrow(axis, start, length), alpha=weight)
        images = blurred
    return images
