"""Share of the real images of a class that have a generated image among their neighbours."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets
from metrics._neighbours import neighbourhoods


@metric(
    unit="fraction",
    better="higher",
    per="class",
    bounds=(0.0, 1.0),
    tracks=("inversion", "visualization"),
    id="coverage_k5_{referee}_penultimate",
)
def coverage(*, referee_features: Tensor, real_referee_features: Tensor, k: int = 5) -> Tensor | Undefined:
    """Share of real images with a generated image nearer than their k-th nearest real neighbour.

    mean over j of [‖x_i − y_j‖ < r_j for some i],  r_j = distance from y_j to the k-th nearest other y
    Source: Naeem et al. 2020, equation 5, arXiv:2002.09797.
    Beware: it grows with the number of generated images, so compare equal numbers only; and images that add noise to
    every mode reach as many real images as faithful ones do.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images of a class.
        real_referee_features: (M, D) the same on its real images.
        k: which neighbour's distance is the radius around a real image.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when M ≤ k or there are no generated images, or the features overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if reference_count <= k or not count:
        return Undefined(f"needs {k + 1} real images and a generated one, got {reference_count} and {count}")
    found = neighbourhoods(generated=referee_features, real=real_referee_features, k=k)
    return found if isinstance(found, Undefined) else found.covered.double().mean()
