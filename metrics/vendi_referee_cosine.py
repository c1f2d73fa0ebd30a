"""How many effectively different images of one class there are, as the referee sees them."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite, vendi_score


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

    exp(−Σ λ log λ) over the eigenvalues λ of K/N. It grows with N: compare equal numbers of images a class only.
    Source: Friedman & Dieng 2023, definition 3.1, arXiv:2210.02410.

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
    zeros = int((referee_features == 0).all(1).sum())
    if zeros:
        return Undefined(f"{zeros} of {len(referee_features)} images have all-zero features, which have no direction")
    return vendi_score(referee_features)
