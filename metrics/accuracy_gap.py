"""How much more often the subject than the referee sees the class that was asked for."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits, label_place


@metric(
    unit="fraction",
    better="neither",  # a method that fools nobody has no gap either
    per="image",
    bounds=(-1.0, 1.0),
    tracks=("inversion",),
    id="accuracy_gap_{referee}",
)
def accuracy_gap(*, target_logits: Tensor, referee_logits: Tensor, labels: Tensor) -> Tensor:
    """Inversion accuracy minus referee agreement, image by image: near 1 the images are adversarial examples.

    Source: this difference is the definition; no paper to match.
    Beware: images that nobody recognises have no gap either, and a referee weaker than the subject makes one on real
    images too.

    Args:
        target_logits: (N, K) of the subject on the generated images.
        referee_logits: (N, K) of the referee on the same.
        labels: (N,) int64 the classes asked for.

    Returns:
        (N,) float64 of −1, 0 and 1.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits, referee_logits=referee_logits)
    subject_right, referee_right = (label_place(logits, labels) < 1 for logits in (target_logits, referee_logits))
    return subject_right.double() - referee_right.double()
