"""How many real neighbourhoods a generated image lies in, against how many a real one would."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets
from metrics._neighbours import neighbourhoods


@metric(
    unit="ratio",
    better="higher",
    per="image",
    bounds=(0.0, None),
    tracks=("inversion", "visualization"),
    id="density_k5_{referee}_penultimate",
)
def density(*, referee_features: Tensor, real_referee_features: Tensor, k: int = 5) -> Tensor | Undefined:
    """1/k times the number of real images whose k-th nearest real neighbour is further off than the generated image.

    (1/k) · |{j : ‖x_i − y_j‖ < r_j}|,  r_j = distance from y_j to the k-th nearest other y
    Source: Naeem et al. 2020, equation 4, arXiv:2002.09797.
    Beware: about 1 on average for real images, but more for images that crowd where real ones are densest, such as
    copies of one of them; read ``coverage`` beside it.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        real_referee_features: (M, D) the same on the reference images.
        k: which neighbour's distance is the radius around a real image.

    Returns:
        (N,) float64 in [0, M/k]; ``Undefined`` when N = 0 or M ≤ k, or the features overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if reference_count <= k or not count:
        return Undefined(f"needs {k + 1} real images and a generated one, got {reference_count} and {count}")
    found = neighbourhoods(generated=referee_features, real=real_referee_features, k=k)
    return found if isinstance(found, Undefined) else found.real_balls / k
