"""How far an image lies from the centre of its class's real images, measured by how far those lie from it."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_two_sets


@metric(
    unit="ratio",
    better="lower",
    per="image",
    bounds=(0.0, None),
    tracks=("visualization",),
    partial=True,
    id="centroid_distance_ratio_{referee}_penultimate",
)
def centroid_distance_ratio_referee(
    *, referee_features: Tensor, labels: Tensor, real_referee_features: Tensor, real_labels: Tensor
) -> Tensor | Undefined:
    """Distance of an image to the centroid of its class's real images, over the mean distance of these to it.

    ‖f_n − c‖ / mean_i ‖r_i − c_{−i}‖,  c = mean_i r_i over the m held-out real images r of the class in the referee's
    penultimate layer, c_{−i} the mean of the other m − 1 of them
    A real image is part of the centroid and draws it near; without it, ‖r_i − c_{−i}‖ = ‖r_i − c‖ m/(m − 1), and one
    more real image of the class has about 1 [our choice]. Below 1 an image is more typical than real ones are.
    Source: the prototypicality that Görgün, Schiele & Fischer 2025, arXiv:2503.22399, show by t-SNE; the number is
    this project's [our choice]; no value to match.
    Beware: the centre of a class is no picture: 0 is beyond any real image, and whatever averages real images comes
    close, blurred or not. In many dimensions a few large features decide. A class of several kinds has a centre where
    no image lies.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        labels: (N,) int64 the classes whose logits were visualized.
        real_referee_features: (M, D) the same on the held-out real images.
        real_labels: (M,) int64 their classes.

    Returns:
        (N,) float64, NaN for an image whose class has fewer than 2 real images or only equal ones, which is left out;
        ``Undefined`` when that is so for all.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    check_axes(
        referee_features=(referee_features, "N D"),
        labels=(labels, "N"),
        real_referee_features=(real_referee_features, "M D"),
        real_labels=(real_labels, "M"),
    )
    values = referee_features.new_full((len(labels),), torch.nan, dtype=torch.float64)
    for label in labels.unique():
        mine, known = labels == label, real_referee_features[real_labels == label].double()
        if len(known) > 1:
            centre = known.mean(0)
            usual = (known - centre).norm(dim=1).mean() * len(known) / (len(known) - 1)
            alike = (known == known[0]).all()  # what rounding leaves between them is no distance
            distances = (referee_features[mine].double() - centre).norm(dim=1)
            values[mine] = torch.where(alike, torch.nan, distances / usual)
    if values.isnan().all():
        return Undefined("no class shown has 2 different real images")
    return values
