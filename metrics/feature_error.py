"""How far the features of a reconstruction are from the features that were asked for."""

import torch
from torch import Tensor

from bench.contract import ShapeError, Undefined, metric
from bench.ops import check_finite


@metric(unit="ratio", better="lower", per="image", bounds=(0.0, None), tracks=("reconstruction",))
def feature_error(*, generated_features: Tensor, wanted_features: Tensor) -> Tensor | Undefined:
    """‖f(x̂) − f(x)‖₂ / ‖f(x)‖₂ at the condition's tap, over all numbers of the tap.

    Source: square root of the normalised loss of Mahendran & Vedaldi 2015, section 3, arXiv:1412.0035.
    Beware: it is the loss that most methods minimise, so it says how well they searched, not what the image looks like:
    noise can have the features of a photograph. Channels with large numbers decide, and taps do not compare.

    Args:
        generated_features: (N, …) the subject's tap on the reconstructions.
        wanted_features: (N, …) the same on the originals, in the same order.

    Returns:
        (N,) float64, 0 for equal features, 1 for features of zero; NaN where all wanted features are zero, which makes
        the reading undefined; ``Undefined`` when that is so for every image.

    Raises:
        ShapeError: unequal shapes, or numbers that are not finite.
    """
    if generated_features.ndim < 2 or generated_features.shape != wanted_features.shape:
        found = f"{tuple(generated_features.shape)} and {tuple(wanted_features.shape)}"
        raise ShapeError(f"generated_features and wanted_features should be (N, …) of one shape, got {found}")
    check_finite(generated_features=generated_features, wanted_features=wanted_features)
    wanted = wanted_features.double().flatten(1)
    size: Tensor = torch.linalg.vector_norm(wanted, dim=1)
    if len(size) and not size.any():
        return Undefined("the wanted features are all zero")
    error: Tensor = torch.linalg.vector_norm(generated_features.double().flatten(1) - wanted, dim=1)
    return (error / size).masked_fill(size == 0, float("nan"))
