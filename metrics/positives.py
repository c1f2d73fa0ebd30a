"""How many attacked images a detector was judged by."""

import torch
from torch import Tensor

from bench.contract import ShapeError, Undefined, metric
from bench.ops import check_axes


@metric(
    unit="count",
    better="neither",
    per="set",
    bounds=(1.0, None),
    tracks=("detection",),
    resample="none",
    decimals=0,
)
def positives(*, attacked: Tensor) -> Tensor | Undefined:
    """Number of attacked images: pictures that the subject has right and that the attack made it get wrong.

    Source: this is the definition; no paper to match.
    Beware: it says how much the other numbers rest on, nothing about the detector. Pictures that resisted the attack
    are not among them, so that detectors of two attacks are not judged by the same pictures.

    Args:
        attacked: (N,) bool.

    Returns:
        () float64, at least 1; ``Undefined`` when no image was attacked.

    Raises:
        ShapeError: other axes, or ``attacked`` not boolean.
    """
    check_axes(attacked=(attacked, "N"))
    if attacked.dtype != torch.bool:
        raise ShapeError(f"attacked should be bool, got {attacked.dtype}")
    count = attacked.sum()
    return count.double() if count else Undefined(f"0 of {len(attacked)} images are attacked")
