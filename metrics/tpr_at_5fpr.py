"""Share of attacked images found when at most one clean image in twenty raises an alarm."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_scores

ONE_IN = 20  # 5 % false alarms


@metric(unit="fraction", better="higher", per="set", bounds=(0.0, 1.0), tracks=("detection",))
def tpr_at_5fpr(*, scores: Tensor, attacked: Tensor) -> Tensor | Undefined:
    """Largest true positive rate of any threshold whose false positive rate is at most 5 %, without interpolation.

    Source: this is the definition; no paper to match.
    Beware: one clean image with a high score moves the threshold, so with fewer than a few hundred clean images it
    jumps. The threshold is set on the test images themselves.

    Args:
        scores: (N,) float, higher is more suspicious; infinite ones are allowed, only their order counts.
        attacked: (N,) bool.

    Returns:
        () float64 in [0, 1], about 0.05 for chance; ``Undefined`` when no image is attacked or fewer than 20 are clean,
        where 5 % is less than one image.

    Raises:
        ShapeError: other axes, NaN scores, or ``attacked`` not boolean.
    """
    check_scores(scores, attacked)
    suspects, clean = scores[attacked], scores[~attacked]
    if not len(suspects) or len(clean) < ONE_IN:
        return Undefined(f"needs attacked images and {ONE_IN} clean ones, got {len(suspects)} and {len(clean)}")
    # The first clean image that must stay silent: every threshold lies above its score.
    silent = clean.sort(descending=True).values[len(clean) // ONE_IN]
    return (suspects > silent).double().mean()
