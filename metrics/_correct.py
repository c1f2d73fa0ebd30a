"""Which images of a class the subject gives that class, for metrics of those alone."""

from torch import Tensor

from bench.contract import Undefined
from bench.ops import check_axes, check_logits, label_place


def given_their_class(images: Tensor, target_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """(N,) bool; ``Undefined`` when fewer than two images are given their class: a pair needs two.

    Raises:
        ShapeError: other axes, logits that are not finite, or labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    check_axes(images=(images.flatten(1), "N P"), labels=(labels, "N"))
    right = label_place(target_logits, labels) < 1
    count = int(right.sum())
    return right if count > 1 else Undefined(f"the subject gives {count} of {len(labels)} images their class")
