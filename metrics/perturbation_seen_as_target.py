"""How often the referee takes a perturbation by itself, without its image, for the target class."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, check_logits
from metrics._adversarial import NONE_RIGHT, is_seen_as, was_right


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("adversarial",),
    partial=True,
    id="perturbation_seen_as_target_{referee}",
)
def perturbation_seen_as_target(
    *,
    perturbation_referee_logits: Tensor,
    target_labels: Tensor,
    generated: Tensor,
    real: Tensor,
    clean_logits: Tensor,
    labels: Tensor,
) -> Tensor | Undefined:
    """1 where the referee gives x̂ − x the target class, 0 where it gives another, of changed images once right.

    The perturbation is shown at full contrast on the median colour of training images, which is black for white strokes
    on black: clip(median + (x̂ − x) / max |x̂ − x|).
    Where an attack names no target, it is the wrong class that the subject favours on the attacked image.
    Source: what the project's issue 4 calls explainable [our choice]; no paper to match.
    Beware: the referee has never seen such pictures and may give most of them one class: targets that are often that
    class make the number high with nothing in it. Compare it with a control of the same targets. What was taken away
    from a white stroke cannot be seen on black.

    Args:
        perturbation_referee_logits: (N, K) of the referee on the perturbations.
        target_labels: (N,) int64 the class that each attack aimed at.
        generated: (N, C, H, W) float, the perturbed images, intensities in [0, 1].
        real: (N, C, H, W) the originals in the same order.
        clean_logits: (N, K) of the subject on the originals.
        labels: (N,) int64 true labels.

    Returns:
        (N,) float64 of 0 and 1, NaN where the original was wrong or nothing was changed; ``Undefined`` when all were
        wrong.

    Raises:
        ShapeError: unequal shapes, intensities outside [0, 1], logits that are not finite, labels outside [0, K).
    """
    check_axes(generated=(generated, "N C H W"), real=(real, "N C H W"))
    check_images(generated=generated, real=real)
    check_logits(labels, clean_logits=clean_logits)
    check_logits(target_labels, perturbation_referee_logits=perturbation_referee_logits)
    right_before = was_right(clean_logits, labels)
    if len(labels) and not right_before.any():
        return NONE_RIGHT
    counted = right_before & (generated != real).flatten(1).any(1)
    return is_seen_as(perturbation_referee_logits, target_labels).masked_fill(~counted, torch.nan)
