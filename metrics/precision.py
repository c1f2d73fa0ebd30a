"""Share of generated images that lie where real images are."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_two_sets
from metrics._neighbours import neighbourhoods


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("inversion", "visualization"),
    id="precision_k5_{referee}_penultimate",
)
def precision(*, referee_features: Tensor, real_referee_features: Tensor, k: int = 5) -> Tensor | Undefined:
    """1 where a generated image is nearer to some real image than that one's k-th nearest real neighbour, else 0.

    [‖x_i − y_j‖ < r_j for some j],  r_j = distance from y_j to the k-th nearest other y
    Source: Kynkäänniemi et al. 2019, section 2, arXiv:1904.06991; strict comparison as in Naeem et al. 2020.
    Beware: copies of a single good image score 1, and a real outlier has a large ball that accepts whatever lies in it,
    plain grey on CIFAR-10 for one. It sees no labels. Read ``density`` and ``coverage`` beside it.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images.
        real_referee_features: (M, D) the same on the reference images.
        k: which neighbour's distance is the radius around a real image.

    Returns:
        (N,) float64 of 0 and 1; ``Undefined`` when N = 0 or M ≤ k, or the features overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if reference_count <= k or not count:
        return Undefined(f"needs {k + 1} real images and a generated one, got {reference_count} and {count}")
    found = neighbourhoods(generated=referee_features, real=real_referee_features, k=k)
    return found if isinstance(found, Undefined) else (found.real_balls > 0).double()
