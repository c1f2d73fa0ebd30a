"""How long the perturbations are that did fool the subject."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, check_logits
from metrics._adversarial import l2_distance, succeeded


@metric(
    unit="intensity",
    better="lower",
    per="set",
    bounds=(0.0, None),
    tracks=("adversarial",),
    id="l2_median_success",
)
def smallest_l2(
    *, generated: Tensor, real: Tensor, target_logits: Tensor, clean_logits: Tensor, labels: Tensor
) -> Tensor | Undefined:
    """Median of ‖x̂ − x‖₂ over the images that were right before the attack and are wrong after it.

    For an attack that seeks the smallest perturbation, this is its usual summary. Of an even number of images, the mean
    of the two in the middle.
    Source: Brendel et al. 2018, section 3 (median over the attacked images), arXiv:1712.04248.
    Differs: images that were not fooled have no length and are left out.
    Beware: an attack that fools only the easiest images has the smallest median: read it beside ``success_rate``. Under
    a bound that the attack uses up, it measures the bound.

    Args:
        generated: (N, C, H, W) float, the perturbed images, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.
        target_logits: (N, K) of the subject on the perturbed images.
        clean_logits: (N, K) of the subject on the originals.
        labels: (N,) int64 true labels.

    Returns:
        () float64 intensities in [0, √(C·H·W)]; ``Undefined`` when no attack succeeded.

    Raises:
        ShapeError: unequal shapes, intensities outside [0, 1], logits that are not finite, labels outside [0, K).
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"), labels=(labels, "N"))
    check_images(generated=generated, real=real)
    check_logits(labels, target_logits=target_logits, clean_logits=clean_logits)
    fooled = succeeded(target_logits, clean_logits, labels)
    if not fooled.any():
        return Undefined("no image that was right before the attack is wrong after it")
    return l2_distance(generated[fooled], real[fooled]).quantile(0.5)
