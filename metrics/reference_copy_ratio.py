"""Whether an image copies one of the reference images, told from how near it lies to images that nobody could copy."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite, check_two_sets

MOST = 50  # references of a class; methods see its first ones


@metric(
    unit="ratio",
    better="neither",  # 1 is as far from the references as from any images of the class
    per="image",
    bounds=(0.0, None),
    tracks=("visualization",),
    partial=True,
    id="reference_copy_ratio_{referee}_penultimate",
)
def reference_copy_ratio(
    *,
    referee_features: Tensor,
    labels: Tensor,
    reference_referee_features: Tensor,
    reference_labels: Tensor,
    real_referee_features: Tensor,
    real_labels: Tensor,
) -> Tensor | Undefined:
    """Distance to the nearest reference of the class, over that to the nearest of equally many held-out images of it.

    min_i ‖f_n − a_i‖ / min_j ‖f_n − r_j‖ in the referee's penultimate layer, a the first 50 references of the class,
    r its held-out real images
    The more images, the nearer the nearest: where one side has more, its minimum is the mean over all choices of as
    many as the other has, Σ_i d_(i) C(s − i, k − 1)/C(s, k) over its s sorted distances d_(1) ≤ d_(2) ≤ …, k the number
    of the other side. Near 1 is expected of a method that learned the class; 0 is a copy.
    Source: the question of copying in this project's protocol for feature visualizations [our choice]; the comparison
    with held-out images as in Meehan et al. 2020, arXiv:2004.05675, with a ratio for their rank test; no value to
    match.
    Beware: far away from all images the ratio goes to 1 whatever was copied, so it clears only images that are near
    some. Held-out images that differ from the references in kind raise or lower it for every method alike: read it
    beside the value of ``real_images``. Where a class has fewer held-out images (k) than references (s), a copy has
    about 1 − k/s and not 0.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        labels: (N,) int64 the classes whose logits were visualized.
        reference_referee_features: (R, D) the same on the references.
        reference_labels: (R,) int64 their classes.
        real_referee_features: (M, D) the same on the held-out real images.
        real_labels: (M,) int64 their classes.

    Returns:
        (N,) float64, NaN for an image whose class lacks references or held-out images, or that equals one of the
        latter, which is left out; ``Undefined`` when that is so for all.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    check_axes(
        referee_features=(referee_features, "N D"),
        labels=(labels, "N"),
        reference_referee_features=(reference_referee_features, "R D"),
        reference_labels=(reference_labels, "R"),
        real_referee_features=(real_referee_features, "M D"),
        real_labels=(real_labels, "M"),
    )
    check_finite(reference_referee_features=reference_referee_features)
    values = referee_features.new_full((len(labels),), torch.nan, dtype=torch.float64)
    for label in labels.unique():
        mine = labels == label
        references = reference_referee_features[reference_labels == label][:MOST]
        held_out = real_referee_features[real_labels == label]
        number = min(len(references), len(held_out))
        if number:
            near, usual = (_nearest(referee_features[mine], side, number) for side in (references, held_out))
            values[mine] = torch.where(usual > 0, near / usual, torch.nan)
    if values.isnan().all():
        return Undefined("no class shown has references and held-out images to compare with")
    return values


def _nearest(images: Tensor, others: Tensor, number: int) -> Tensor:
    """(B,) float64 mean, over all choices of ``number`` others, of the distance to the nearest of them."""
    # by differences, not products: a copy is exactly 0 away
    distances = torch.cdist(images.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")
    spare = len(others) - number
    # chance that the i-th nearest is the nearest chosen: that of being chosen, times that none nearer was
    place = torch.arange(spare + 1, dtype=torch.float64, device=images.device)
    missed = (spare - place) / (len(others) - place)
    chances = (1 - missed) * torch.cat([missed.new_ones(1), missed.cumprod(0)[:-1]])
    return distances.sort(1).values[:, : spare + 1] @ chances
