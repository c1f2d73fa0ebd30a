"""The cosine between a reconstruction and its original, as pictures without their brightness."""

from torch import Tensor
from torch.nn import functional as F

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images
from metrics._fitted import centred


@metric(
    unit="cosine",
    better="higher",
    per="image",
    bounds=(-1.0, 1.0),
    tracks=("reconstruction",),
    id="image_cosine_centred",
)
def image_cosine(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """Cosine of the pixels of both images, each less its own mean: their correlation over all pixels and channels.

    Σ_p (x_p − x̄)(y_p − ȳ) / (‖x − x̄‖ ‖y − ȳ‖),  x̄ one mean an image, over all channels
    Gain and offset do not enter, but the sign does: a negative picture has −1. Its square is the share of the
    original's variance that the best gain and offset explain, so an image without contrast, which explains none, has 0.
    Source: this formula, Pearson's correlation, is the definition; that the means are taken off is [our choice].
    Beware: it counts pixels and sees no structure: the mean of the data set, or blur, beats a sharp image that is
    shifted by a pixel. In colour images most of it can be the light and dark of large areas.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.

    Returns:
        (N,) float64 in [−1, 1], NaN where the original has no contrast, which makes the reading undefined;
        ``Undefined`` when none has any.

    Raises:
        ShapeError: unequal shapes, or intensities outside [0, 1].
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    ours, theirs = centred(generated), centred(real)
    flat = (theirs == 0).all(1)
    if len(flat) and flat.all():
        return Undefined("no original has any contrast")
    # the smallest length that is divided by is far below that of one float32 step in one pixel
    cosine = (F.normalize(ours, dim=1, eps=1e-30) * F.normalize(theirs, dim=1, eps=1e-30)).sum(1)
    return cosine.clamp(-1.0, 1.0).masked_fill(flat, float("nan"))
