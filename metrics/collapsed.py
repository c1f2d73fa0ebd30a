"""Whether the images of one class are about the same image, over and over."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, check_two_sets
from metrics._pairs import ROUNDING, mean_pair_rmse, too_few
from metrics._shared import first
from metrics._vendi import vendi_score

LEAST_RMSE = 0.05  # of real images
LEAST_VENDI = 0.1  # of what real images have above a single image
ONE_IMAGE = 1e-9  # a score so little above 1 is that of one image, but for rounding


@metric(
    unit="fraction",
    better="lower",
    per="class",
    bounds=(0.0, 1.0),
    tracks=("inversion",),
    id="collapsed_rmse.05_vendi.1_{referee}",
)
def collapsed(
    *, generated: Tensor, real: Tensor, referee_features: Tensor, real_referee_features: Tensor
) -> Tensor | Undefined:
    """1 where a class has less than 5 % of real images' pixel distance or less than 10 % of their Vendi score, else 0.

    RMSE / RMSE_real < 0.05  or  (V − 1) / (V_real − 1) < 0.1, over the images of one class: the mean distance of
    ``same_class_rmse`` and the score of ``vendi_ratio``. Over classes it is the share that collapsed.
    Source: both limits are ours [our choice]; V is that of Friedman & Dieng 2023, arXiv:2210.02410.
    Beware: it asks for little: 0 does not say that the images are diverse, or that they show the class. Invisible noise
    takes a class over neither limit, dropout while sampling over both.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        real: (M, C, H, W) real images of that class.
        referee_features: (N, D) the referee's penultimate layer on ``generated``.
        real_referee_features: (M, D) the same on ``real``.

    Returns:
        () float64, 0 or 1; ``Undefined`` when either side has fewer than 2 images, the real ones are all equal or have
        one direction, or a row of features is zero where the pixels have not decided.

    Raises:
        ShapeError: other axes, intensities outside [0, 1], or features that are not finite.
    """
    check_images(generated=generated, real=real)
    check_axes(generated=(generated, "N C H W"), real=(real, "M C H W"), referee_features=(referee_features, "N D"))
    check_axes(real=(real, "M C H W"), real_referee_features=(real_referee_features, "M D"))
    check_two_sets(referee_features, real_referee_features)
    few = too_few(len(generated), len(real))
    if few:
        return few
    spread = mean_pair_rmse(real)
    if spread < ROUNDING:
        return Undefined("the real images of the class are all equal")
    if mean_pair_rmse(generated) < LEAST_RMSE * spread:
        return torch.ones((), dtype=torch.float64, device=generated.device)
    return _few_directions(referee_features, real_referee_features)


def _few_directions(made: Tensor, real: Tensor) -> Tensor | Undefined:
    """() float64 1 where V − 1 is less than a tenth of the same for as many real images, else 0."""
    number = min(len(made), len(real))
    ours, theirs = vendi_score(first(made, number)), vendi_score(first(real, number))
    if isinstance(ours, Undefined):
        return ours
    if isinstance(theirs, Undefined):
        return Undefined(f"real images: {theirs.reason}")
    if theirs - 1 < ONE_IMAGE:
        return Undefined("the real images all have one direction: there is no diversity to compare with")
    return (ours - 1 < LEAST_VENDI * (theirs - 1)).double()
