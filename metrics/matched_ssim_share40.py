"""How many images of one class match a training image of their own well."""

from torch import Tensor

from bench.contract import Undefined, metric
from metrics._matching import cannot_match, ssim_of_matches

LIKE = 0.4  # of SSIM: from here on a match counts


@metric(
    unit="fraction",
    better="higher",
    per="class",
    bounds=(0.0, 1.0),
    tracks=("inversion",),
    id="ssim_share40_hungarian100_gauss11_s1.5_dr1_rgb",
)
def matched_ssim_share40(*, generated: Tensor, training: Tensor, most: int = 100) -> Tensor | Undefined:
    """Share of one-to-one matches with training images of the class whose SSIM is 0.4 or more.

    The matches are those whose SSIM has the largest sum, at most 100 on a side, as in ``matched_ssim_gain``.
    Source: the threshold is that of public student code around Suhail & Sethi 2024, arXiv:2410.16884, and in none of
    their papers [group code].
    Beware: 0.4 is a low bar for pictures that are background for the most part: the blurred mean of a class may pass
    it, and held-out images do. Read it beside ``matched_ssim_gain`` and the row of real images.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        training: (M, C, H, W) training images of that class, in any order.
        most: how many images of each side enter.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when a side has no images, or an image has a side below 11 px.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    absent = cannot_match(generated, training=training)
    if absent:
        return absent
    matched = ssim_of_matches(generated, training, most, min(len(training), most))
    return (matched >= LIKE).double().mean()
