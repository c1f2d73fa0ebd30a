"""How many images an attack fools, and how near to the originals it does so, in one number."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, check_logits
from metrics._adversarial import NONE_RIGHT, l2_distance, succeeded, was_right


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("adversarial",),
    partial=True,
    id="success_l2_area_rms0.25",
)
def success_distance_area(
    *,
    generated: Tensor,
    real: Tensor,
    target_logits: Tensor,
    clean_logits: Tensor,
    labels: Tensor,
    reach: float = 0.25,
) -> Tensor | Undefined:
    """Area under the share of images fooled within distance r, for r from 0 to R, divided by R.

    max(0, 1 − d/R) for an image fooled at d = ‖x̂ − x‖₂ and 0 for one that was not: its mean over the images right
    before the attack is (1/R) ∫₀ᴿ S(r) dr, S(r) the share of them fooled at a distance of at most r. R = 0.25 ·
    √(C·H·W), where a pixel has changed by 0.25 in the root mean square, so that images of all sizes have one scale.
    Source: this area is the definition; the curve is that of Carlini et al. 2019 (accuracy against perturbation
    budget), arXiv:1902.06705.
    Beware: it knows one distance for each image, the one that the attack stopped at: an attack that uses up its bound
    on images it could have fooled nearer loses for that. Success beyond R counts as none.

    Args:
        generated: (N, C, H, W) float, the perturbed images, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.
        target_logits: (N, K) of the subject on the perturbed images.
        clean_logits: (N, K) of the subject on the originals.
        labels: (N,) int64 true labels.
        reach: R as a root mean square change of the pixels' channels, in intensities.

    Returns:
        (N,) float64 in [0, 1], NaN where the original was wrong; ``Undefined`` when all were.

    Raises:
        ShapeError: unequal shapes, intensities outside [0, 1], logits that are not finite, labels outside [0, K).
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"), labels=(labels, "N"))
    check_images(generated=generated, real=real)
    check_logits(labels, target_logits=target_logits, clean_logits=clean_logits)
    right_before = was_right(clean_logits, labels)
    if len(labels) and not right_before.any():
        return NONE_RIGHT
    radius = reach * real[0].numel() ** 0.5 if len(real) else 1.0
    height = (1 - l2_distance(generated, real) / radius).clamp(min=0)
    height = height * succeeded(target_logits, clean_logits, labels)
    return height.masked_fill(~right_before, float("nan"))
