"""How far a trained network's weights are from orthogonal."""

import torch
from torch import Tensor

from bench.contract import Classifier, Undefined, metric
from bench.ops import orthogonality


@metric(
    unit="rms of σ² − 1",
    better="neither",
    per="set",
    bounds=(0.0, None),
    tracks=("training",),
    resample="none",
    id="orthogonality_residual_small_gram_a1",
)
def orthogonality_residual(*, target: Classifier) -> Tensor | Undefined:
    """Mean over layers of the distance of their weights from orthonormal rows (wide) or columns (tall).

    ‖W Wᵀ − I‖ / √n for an (n, m) weight with n ≤ m, ‖Wᵀ W − I‖ / √m otherwise, Frobenius: the root mean square of
    σ² − 1 over its singular values. 0 for a semi-orthogonal weight, |s² − 1| for s times one, 1 for a zero one. Layers
    are kernels of convolutions, flattened behind axis 0, linear layers and projections of attention, the last layer
    included and each counted once; of a convolution's groups the worst counts.
    Source: the constraint of Zhang et al. 2023, arXiv:2212.09062, with amplitude 1; by layers as in Bansal et al. 2018,
    arXiv:1810.09102.
    Beware: a flattened kernel is not the convolution's operator, which may stretch images though this is 0; in front of
    BatchNorm a weight's length changes this number and not the network; one long layer can make up the whole mean.

    Args:
        target: the trained network as a subject.

    Returns:
        () float64, 0 or more; ``Undefined`` when no layer has a matrix of weights.

    Raises:
        ShapeError: a weight is not finite.
    """
    layers = orthogonality(target.network)
    if not layers:
        return Undefined("the network has no convolution, linear layer or attention")
    return torch.tensor([layer.residual for layer in layers.values()], dtype=torch.float64).mean()
