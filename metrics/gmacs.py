"""How much arithmetic one image costs."""

import torch
from torch import Tensor

from bench.contract import Classifier, metric
from metrics._cost import count_gmacs


@metric(
    unit="GMAC",
    better="lower",
    per="set",
    bounds=(0.0, None),
    tracks=("training",),
    resample="none",
    decimals=6,
    id="gmacs_fvcore",
)
def gmacs(*, target: Classifier) -> Tensor:
    """Multiply-adds, in 1e9, of one image through the trained network.

    A multiplication with its addition counts once, fused attention as if it were not fused. For resnet18 at 224 px this
    is 1.819065856, for deit_tiny 1.2584112.
    Source: fvcore's FlopCountAnalysis, whose flop is a multiply-add; https://github.com/facebookresearch/fvcore.
    Beware: it is not time: depthwise convolutions are slow and large matrix products fast for their count. An operation
    that fvcore does not know, such as a kernel of one's own, counts as nothing.

    Args:
        target: the trained network as a subject.

    Returns:
        () float64 in 1e9 multiply-adds.

    Raises:
        RuntimeError: the network cannot be traced.
    """
    return torch.tensor(count_gmacs(target.network, target.image_shape), dtype=torch.float64)
