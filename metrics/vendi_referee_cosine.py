"""How many effectively different images of one class there are, as the referee sees them."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._vendi import vendi_score


@metric(
    unit="images",
    better="higher",
    per="class",
    bounds=(1.0, None),
    tracks=("inversion", "visualization"),
    decimals=2,
    id="vendi_{referee}_cosine",
)
def vendi_referee_cosine(*, referee_features: Tensor) -> Tensor | Undefined:
    """Vendi score of order 1 with the cosine kernel of the referee's penultimate features.

    exp(−Σ λ log λ) over the eigenvalues λ of K/N,  K_ij = cos(f_i, f_j)
    Source: Friedman & Dieng 2023, definition 3.1, arXiv:2210.02410.
    Beware: it grows with N, so compare equal numbers of images a class only; and it counts differences of any kind, so
    noise can score above real images. ``vendi_ratio`` says where those are.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the images of one class.

    Returns:
        () float64 in [1, N]: 1 for equal directions, N for orthogonal ones; ``Undefined`` when there is no image, or a
        row of features is zero and has no direction.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(referee_features=(referee_features, "N D"))
    check_finite(referee_features=referee_features)
    if not len(referee_features):
        return Undefined("the class has no images")
    return vendi_score(referee_features)
