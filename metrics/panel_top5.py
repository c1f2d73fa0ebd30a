"""How many networks of a panel have the class that an image should show among their five first guesses."""

from torch import Tensor

from bench.contract import Undefined, metric
from metrics._panel import share_of_panel


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("visualization",),
    id="panel_top5_{panel}",
)
def panel_top5(*, panel_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """Share of the panel's networks whose five largest logits hold the class shown; only for class logits.

    The panel are networks that the suite names to judge beside the referee, never the subject.
    Source: this share is the definition; no paper to match.
    Beware: judges of the subject's family, or of its training run, flatter every method; the name says who they are.
    With ten classes half of all guesses are right. Images are judged as large as the subject takes them.

    Args:
        panel_logits: (N, J, K) of each of the J networks on the generated images.
        labels: (N,) int64 the classes whose logits were visualized.

    Returns:
        (N,) float64 in [0, 1]; equal logits are ordered by class index; ``Undefined`` when K ≤ 5.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    share = share_of_panel(panel_logits, labels, first=5)
    classes = panel_logits.shape[2]
    return share if classes > 5 else Undefined(f"the five largest of {classes} logits are all of them")
