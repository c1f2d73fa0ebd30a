"""How well a detector's scores rank attacked images above clean ones."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_scores


@metric(unit="auc", better="higher", per="set", bounds=(0.0, 1.0), tracks=("detection",))
def auroc(*, scores: Tensor, attacked: Tensor) -> Tensor | Undefined:
    """Chance that an attacked image has a higher score than a clean one, ties counted half.

    Equal to the area under the ROC curve.
    Source: Hanley & McNeil 1982, section "The meaning of the area", doi:10.1148/radiology.143.1.7063747.
    Beware: it averages over false alarm rates that nobody would accept: read it beside ``tpr_at_5fpr``. A detector that
    sees the attack's own traces loses it all under an attack that knows the detector.

    Args:
        scores: (N,) float, higher is more suspicious; infinite ones are allowed, only their order counts.
        attacked: (N,) bool.

    Returns:
        () float64 in [0, 1], 0.5 for chance; ``Undefined`` when attacked or clean images are missing.

    Raises:
        ShapeError: other axes, NaN scores, or ``attacked`` not boolean.
    """
    check_scores(scores, attacked)
    suspects, clean = scores[attacked], scores[~attacked].sort().values
    if not len(suspects) or not len(clean):
        return Undefined(f"needs images of both kinds, got {len(suspects)} attacked and {len(clean)} clean")
    below = torch.searchsorted(clean, suspects, side="left")  # clean images with a lower score
    not_above = torch.searchsorted(clean, suspects, side="right")
    return (below + not_above).double().mean() / 2 / len(clean)
