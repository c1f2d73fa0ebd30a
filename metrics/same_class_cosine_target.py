"""How far apart in direction the images of one class are, as the subject itself sees them."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._pairs import mean_pair_cosine_distance, too_few, without_direction


@metric(unit="cosine", better="higher", per="class", bounds=(0.0, 2.0), tracks=("inversion",))
def same_class_cosine_target(*, target_features: Tensor) -> Tensor | Undefined:
    """Mean of 1 − cosine of the subject's penultimate features over all unordered pairs of images of one class.

    mean over i < j of  1 − φ_i · φ_j / (‖φ_i‖ ‖φ_j‖)
    The tap is the input of the subject's last linear layer. A method that spreads the features of its images, as
    network inversion does with its cosine term, is to be seen here first.
    Source: the cosine term of Suhail & Sethi 2024, arXiv:2407.18002, between images of one class only [our choice].
    Beware: methods optimise these features, and noise that nobody sees can move them: diversity is what
    ``same_class_rmse`` and ``same_class_cosine_referee`` show. Features after a ReLU have no negative cosine, and a
    common offset makes all cosines large: compare with the row of real images, of one subject only.

    Args:
        target_features: (N, D) the subject's penultimate layer on the images of one class.

    Returns:
        () float64 in [0, 2]: 0 for equal directions, 1 for orthogonal ones; ``Undefined`` when N < 2, or a row of
        features is zero and has no direction.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(target_features=(target_features, "N D"))
    check_finite(target_features=target_features)
    return (
        too_few(len(target_features))
        or without_direction(target_features=target_features)
        or mean_pair_cosine_distance(target_features)
    )
