"""How many networks of a panel see in an image the class that it should show."""

from torch import Tensor

from bench.contract import metric
from metrics._panel import share_of_panel


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("visualization",),
    id="panel_top1_{panel}",
)
def panel_top1(*, panel_logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the panel's networks whose largest logit is the class shown; only for class logits.

    The panel are networks that the suite names to judge beside the referee, never the subject.
    Source: this share is the definition; no paper to match.
    Beware: judges of the subject's family, or of its training run, flatter every method; the name says who they are.
    Networks see texture more than shape, and agreement among them says nothing of how real an image looks. Images are
    judged as large as the subject takes them.

    Args:
        panel_logits: (N, J, K) of each of the J networks on the generated images.
        labels: (N,) int64 the classes whose logits were visualized.

    Returns:
        (N,) float64 in [0, 1]; equal logits are ordered by class index.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    return share_of_panel(panel_logits, labels, first=1)
