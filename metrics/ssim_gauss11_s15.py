"""Structural similarity between a reconstruction and its original."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images
from metrics._ssim import ssim, too_small


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
    Beware: libraries give the same pair .52 and .78, so compare equal ids only. It is strict about texture and one
    pixel of shift and lenient about a change of colour or contrast; on flat ground (MNIST) the empty border counts.

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
    return too_small(generated) or ssim(generated, real)
