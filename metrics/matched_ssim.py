"""How well the images of one class match held-out real ones, each with a partner of its own."""

from torch import Tensor

from bench.contract import Undefined, metric
from metrics._matching import cannot_match, ssim_of_matches


@metric(
    unit="ssim",
    better="higher",
    per="class",
    bounds=(-1.0, 1.0),
    tracks=("inversion",),
    id="ssim_hungarian100_gauss11_s1.5_dr1_rgb",
)
def matched_ssim(*, generated: Tensor, real: Tensor, most: int = 100) -> Tensor | Undefined:
    """Mean SSIM of generated images with real ones of their class, matched one-to-one so that the sum is largest.

    max over one-to-one σ of  mean over pairs of SSIM(x_i, r_σ(i)),  min(N, M) pairs; SSIM as in ``ssim_gauss11_s15``.
    The real images are held-out test images, which no method has seen: a high value means images that are like the
    training data, or copies of images like those. Of more than 100 images on a side, 100 enter, chosen by sha256 of
    their bytes, so that the order they come in moves nothing; their N × M pairs are all compared.
    Source: assignment of Kuhn 1955, doi:10.1002/nav.3800020109 (SciPy's ``linear_sum_assignment``); SSIM of Wang et
    al. 2004, doi:10.1109/TIP.2003.819861.
    Beware: it grows with the number of real images to choose from, so compare rows of equal n only, and with
    ``real_images``, not with 1. The blurred mean of a class matches better than sharp images of it do.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        real: (M, C, H, W) real images of that class, in any order.
        most: how many images of each side enter.

    Returns:
        () float64 in [−1, 1]: 1 when every image equals a real one; ``Undefined`` when a side has no images, or an
        image has a side below 11 px.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    absent = cannot_match(generated, real=real)
    return absent or ssim_of_matches(generated, real, most, most).mean()
