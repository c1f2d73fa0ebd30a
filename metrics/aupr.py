"""Average precision of a detector whose alarms are the attacked images."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_scores


@metric(unit="auc", better="higher", per="set", bounds=(0.0, 1.0), tracks=("detection",))
def aupr(*, scores: Tensor, attacked: Tensor) -> Tensor | Undefined:
    """Area under the precision–recall curve as a sum of steps, attacked images being the positives.

    Σ over thresholds of (recall_t − recall_{t−1}) · precision_t; images of equal score pass the threshold together.
    That is the mean, over attacked images, of the precision at their own score. Chance is the share of attacked images.
    Source: Davis & Goadrich 2006, section 2, doi:10.1145/1143844.1143874, without interpolation.
    Beware: its chance level is the share of attacked images, so values at another share cannot be compared.

    Args:
        scores: (N,) float, higher is more suspicious; infinite ones are allowed, only their order counts.
        attacked: (N,) bool.

    Returns:
        () float64 in (0, 1]; ``Undefined`` when attacked or clean images are missing.

    Raises:
        ShapeError: other axes, NaN scores, or ``attacked`` not boolean.
    """
    check_scores(scores, attacked)
    suspects, everyone = scores[attacked].sort().values, scores.sort().values
    if not 0 < len(suspects) < len(everyone):
        clean = len(everyone) - len(suspects)
        return Undefined(f"needs images of both kinds, got {len(suspects)} attacked and {clean} clean")
    found = len(suspects) - torch.searchsorted(suspects, suspects)  # attacked images that score at least as high
    alarms = len(everyone) - torch.searchsorted(everyone, suspects)
    return (found.double() / alarms).mean()
