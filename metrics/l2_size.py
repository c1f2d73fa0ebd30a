"""Euclidean length of the perturbation that an attack made."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, check_logits
from metrics._adversarial import NONE_RIGHT, l2_distance, was_right


@metric(unit="intensity", better="lower", per="image", bounds=(0.0, None), tracks=("adversarial",), partial=True)
def l2_size(*, generated: Tensor, real: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """‖x̂ − x‖₂ over all pixels and channels, for the images that were right before the attack, fooled or not.

    Source: the usual definition; no paper to match.
    Beware: an attack that does nothing has the smallest size: read it beside ``success_rate``, which counts the same
    images. It grows with the number of pixels, so it compares attacks on images of one shape only.

    Args:
        generated: (N, C, H, W) float, the perturbed images, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.
        clean_logits: (N, K) of the subject on the originals.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 intensities in [0, √(C·H·W)], NaN where the original was wrong; ``Undefined`` when all were.

    Raises:
        ShapeError: unequal shapes, intensities outside [0, 1], logits that are not finite, labels outside [0, K).
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"), labels=(labels, "N"))
    check_images(generated=generated, real=real)
    check_logits(labels, clean_logits=clean_logits)
    right_before = was_right(clean_logits, labels)
    if len(labels) and not right_before.any():
        return NONE_RIGHT
    return l2_distance(generated, real).masked_fill(~right_before, float("nan"))
