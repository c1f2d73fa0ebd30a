"""Perceptual distance (LPIPS) between an image and its original, with AlexNet."""

from collections.abc import Callable

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes
from metrics._lpips import SMALLEST_ALEX, pair_distances, too_small


@metric(
    unit="lpips",
    better="lower",
    per="image",
    bounds=(0.0, None),
    tracks=("reconstruction", "adversarial"),
    id="lpips_alex_v0.1",
)
def lpips_alex(
    *, generated: Tensor, real: Tensor, lpips_alex: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | Undefined:
    """Weighted distance between the features that AlexNet has of the two images; 0 for equal ones.

    Σ over layers l of mean over positions of Σ_c w_lc (ŷ_lc − ŷ'_lc)², ŷ unit vectors over channels, w learnt from
    people's judgements. The images are taken to [−1, 1] here and nowhere else; grey is shown as three equal channels.
    Source: Zhang et al. 2018, equation 1, arXiv:1801.03924; the authors' package lpips 0.1.4, weights v0.1.
    Beware: it was made for photographs of 64 px: on smaller ones and on digits it is an extrapolation. Attacks change
    labels at almost no LPIPS, and every image counts, one that was left as it was or was wrong before too: read it
    beside ``success_rate``. Numbers with AlexNet and with VGG are of different size.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], 1 or 3 channels, at least 32 px wide and high.
        real: (N, C, H, W) the originals in the same order.
        lpips_alex: two batches of such images → (N,).

    Returns:
        (N,) float64; ``Undefined`` for smaller images.

    Raises:
        ShapeError: unequal shapes, another number of channels, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    return too_small(real, SMALLEST_ALEX, ": use lpips_vgg") or pair_distances(lpips_alex, generated, real)
