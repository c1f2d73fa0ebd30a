"""How far apart, in pixels, those images of a class are that the subject gives the class."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_images
from metrics._correct import given_their_class
from metrics._pairs import mean_pair_rmse


@metric(unit="intensity", better="higher", per="class", bounds=(0.0, 1.0), tracks=("inversion",))
def same_class_rmse_correct(*, generated: Tensor, target_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """``same_class_rmse`` over the images whose largest logit of the subject is the class asked for.

    Diversity at different inversion accuracies is not comparable: images that miss their class differ for free.
    Source: this restriction is the definition; no paper to match.
    Beware: the easier a class, the more of its images enter; rows with few right images leave most of theirs out.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        target_logits: (N, K) of the subject on them.
        labels: (N,) int64 the class asked for.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when fewer than two images are given their class.

    Raises:
        ShapeError: other axes, intensities outside [0, 1], logits that are not finite, or labels outside [0, K).
    """
    check_images(generated=generated)
    right = given_their_class(generated, target_logits, labels)
    return right if isinstance(right, Undefined) else mean_pair_rmse(generated[right])
