"""Share of test images whose true label has the largest logit."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits, label_place


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("training",))
def top1(*, target_logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the label has the largest logit, 0 elsewhere; of equal logits the lowest class index counts as largest.

    Source: the usual definition; no paper to match.
    Beware: where one class has most of the test images, always guessing it does well; and differences below the
    interval of the images are luck.

    Args:
        target_logits: (N, K) of the trained network on test images.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 of 0 and 1.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    return (label_place(target_logits, labels) < 1).double()
