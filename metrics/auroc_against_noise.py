"""How well a detector's scores rank attacked images above images with noise as large as the attack."""

import torch
from torch import Tensor

from bench.contract import ShapeError, Undefined, metric
from bench.ops import check_axes, check_scores


@metric(unit="auc", better="higher", per="set", bounds=(0.0, 1.0), tracks=("detection",))
def auroc_against_noise(*, scores: Tensor, attacked: Tensor, noisy: Tensor) -> Tensor | Undefined:
    """Chance that an attacked image has a higher score than a noisy one, ties counted half; others do not count.

    The noise is uniform and in L2 as large as the attack on the same picture: a detector that tells that something was
    changed, and not what, has 0.5 here whatever its ``auroc``.
    Source: Hanley & McNeil 1982, section "The meaning of the area", doi:10.1148/radiology.143.1.7063747; which images
    are compared is our choice.
    Beware: uniform noise is only one way to change an image harmlessly: blur or compression may raise alarms still.

    Args:
        scores: (N,) float, higher is more suspicious; infinite ones are allowed, only their order counts.
        attacked: (N,) bool.
        noisy: (N,) bool, images with noise that were not attacked.

    Returns:
        () float64 in [0, 1], 0.5 for chance; ``Undefined`` when attacked or noisy images are missing.

    Raises:
        ShapeError: other axes, NaN scores, ``attacked`` or ``noisy`` not boolean, or an image that is both.
    """
    check_scores(scores, attacked)
    check_axes(scores=(scores, "N"), noisy=(noisy, "N"))
    if noisy.dtype != torch.bool:
        raise ShapeError(f"noisy should be bool, got {noisy.dtype}")
    if both := int((attacked & noisy).sum()):
        raise ShapeError(f"noisy images should not be attacked, {both} are")
    suspects, noise = scores[attacked], scores[noisy].sort().values
    if not len(suspects) or not len(noise):
        return Undefined(f"needs images of both kinds, got {len(suspects)} attacked and {len(noise)} noisy")
    below = torch.searchsorted(noise, suspects, side="left")  # noisy images with a lower score
    not_above = torch.searchsorted(noise, suspects, side="right")
    return (below + not_above).double().mean() / 2 / len(noise)
