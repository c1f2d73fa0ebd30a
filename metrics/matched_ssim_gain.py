"""How much better the images of one class match training images than held-out ones."""

from torch import Tensor

from bench.contract import Undefined, metric
from metrics._matching import cannot_match, ssim_of_matches


@metric(
    unit="ssim",
    better="higher",
    per="class",
    bounds=(-2.0, 2.0),
    tracks=("inversion",),
    id="ssim_gain_hungarian100_gauss11_s1.5_dr1_rgb",
)
def matched_ssim_gain(*, generated: Tensor, real: Tensor, training: Tensor, most: int = 100) -> Tensor | Undefined:
    """Mean SSIM of the images matched one-to-one with training images of their class, minus that with held-out ones.

    max over σ of mean SSIM(x_i, t_σ(i))  −  max over σ of mean SSIM(x_i, r_σ(i)), each as in ``matched_ssim``. A mean
    grows with the number of images to choose from, so both sides give equally many: as many as the smaller one has, at
    most 100, chosen by sha256 of their bytes. 0 says that the images are as like the training images as like any
    others of the class; above 0, with an interval that leaves 0 out, they show the training data themselves.
    Source: the claim of images like the training data is that of Suhail & Sethi 2024, arXiv:2410.16884; the held-out
    control is ours [our choice].
    Beware: of a large training set only those images enter, so a copy of another one gains nothing: 0 is no proof that
    nothing of the training data is shown. Some hundredths either way are chance, by the choice of images: look
    at the row of real images, which have seen neither side.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        real: (M, C, H, W) held-out images of that class, in any order.
        training: (M', C, H, W) training images of that class, in any order.
        most: how many images of each set enter.

    Returns:
        () float64 in [−2, 2]; ``Undefined`` when a set has no images, or an image has a side below 11 px.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    absent = cannot_match(generated, real=real, training=training)
    if absent:
        return absent
    partners = min(len(real), len(training), most)
    known, unseen = (ssim_of_matches(generated, images, most, partners) for images in (training, real))
    return known.mean() - unseen.mean()
