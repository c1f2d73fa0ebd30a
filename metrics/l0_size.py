"""Share of the pixels that an attack changed."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, check_logits
from metrics._adversarial import NONE_RIGHT, was_right


@metric(
    unit="fraction",
    better="lower",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("adversarial",),
    partial=True,
    id="l0_size_pixels",
)
def l0_size(*, generated: Tensor, real: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """Pixels with a change in any channel, as a share of H·W, for the images right before the attack, fooled or not.

    #{p : x̂_p ≠ x_p} / (H·W), a pixel p having all its channels.
    Source: Croce & Hein 2019 (sparse attacks, a pixel counted once), arXiv:1909.05040.
    Beware: a change counts however small, so attacks under another norm have values near 1, pixels that are clipped at
    black or white apart. An attack that does nothing has 0: read it beside ``success_rate``.

    Args:
        generated: (N, C, H, W) float, the perturbed images, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.
        clean_logits: (N, K) of the subject on the originals.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 in [0, 1], NaN where the original was wrong; ``Undefined`` when all were.

    Raises:
        ShapeError: unequal shapes, intensities outside [0, 1], logits that are not finite, labels outside [0, K).
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"), labels=(labels, "N"))
    check_images(generated=generated, real=real)
    check_logits(labels, clean_logits=clean_logits)
    right_before = was_right(clean_logits, labels)
    if len(labels) and not right_before.any():
        return NONE_RIGHT
    changed = (generated != real).any(1).flatten(1)  # (N, H·W)
    return changed.double().mean(1).masked_fill(~right_before, float("nan"))
