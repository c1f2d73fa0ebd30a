"""How far apart the images of one class are, measured by how far apart real ones are."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_images, mean_pair_rmse


@metric(unit="ratio", better="neither", per="class", bounds=(0.0, None), tracks=("inversion", "visualization"))
def same_class_rmse_ratio(*, generated: Tensor, real: Tensor) -> Tensor | Undefined:
    """``same_class_rmse`` of the generated images of a class, divided by that of its real images.

    1 is as diverse as reality; above 1 is usually noise, so neither way is good by itself.
    Source: this ratio is the definition; no paper to match.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1], all asked for the same class.
        real: (M, C, H, W) real images of that class.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, or all real ones are equal.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    check_images(generated=generated, real=real)
    if len(generated) < 2 or len(real) < 2:
        return Undefined(f"a pair needs 2 images of the class, got {len(generated)} generated and {len(real)} real")
    spread = mean_pair_rmse(real)
    if spread == 0:
        return Undefined("the real images of the class are all equal")
    return mean_pair_rmse(generated) / spread
