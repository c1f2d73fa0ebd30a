"""Share of the real images of a class that lie where generated images are."""

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
    id="recall_k5_{referee}_penultimate",
)
def recall(*, referee_features: Tensor, real_referee_features: Tensor, k: int = 5) -> Tensor | Undefined:
    """Share of real images nearer to some generated image than that one's k-th nearest generated neighbour.

    mean over j of [‖x_i − y_j‖ < s_i for some i],  s_i = distance from x_i to the k-th nearest other x
    Source: Kynkäänniemi et al. 2019, section 2, arXiv:1904.06991; strict comparison as in Naeem et al. 2020.
    Beware: a generated outlier has a large ball and can raise it, so scattered noise may beat good images; read
    ``coverage`` beside it.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the generated images of a class.
        real_referee_features: (M, D) the same on its real images.
        k: which neighbour's distance is the radius around a generated image.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when N ≤ k or there are no real images, or the features overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_two_sets(referee_features, real_referee_features)
    count, reference_count = len(referee_features), len(real_referee_features)
    if count <= k or not reference_count:
        return Undefined(f"needs {k + 1} generated images and a real one, got {count} and {reference_count}")
    found = neighbourhoods(generated=referee_features, real=real_referee_features, k=k)
    return found if isinstance(found, Undefined) else (found.generated_balls > 0).double().mean()
