"""How strongly the images drive the neuron that they should show, measured by how strongly real images do."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite


@metric(
    unit="ratio",
    better="neither",  # far above real images is a warning
    per="image",
    bounds=(None, None),
    tracks=("visualization",),
    partial=True,
    id="activation_ratio_class_mean_or_top9",
)
def activation_ratio(*, activation: Tensor, real_activation: Tensor) -> Tensor | Undefined:
    """The neuron's activation on each image, over its mean activation on real images that it stands for.

    Those are, for a class logit, the held-out images of the class; for a channel, which has no images of its own, the
    nine held-out images that drive it most. 1 is like them.
    Source: the target logit relative to real images, of this project's protocol for feature visualizations [our
    choice]; no value to match.
    Beware: far above 1 is a warning, not a success: noise that nobody would recognise drives a neuron furthest. Logits
    have no natural zero, so a ratio of small ones says little. For a channel it depends on how many held-out images
    there are to choose the nine from.

    Args:
        activation: (N,) float, the class logit or the channel's mean over places.
        real_activation: (N,) float, the same neuron's mean over those real images.

    Returns:
        (N,) float64, NaN where real images do not drive the neuron (mean ≤ 0), which is left out; ``Undefined`` when
        they drive none.

    Raises:
        ShapeError: other axes, or numbers that are not finite.
    """
    check_axes(activation=(activation, "N"), real_activation=(real_activation, "N"))
    check_finite(activation=activation, real_activation=real_activation)
    usual = real_activation.double()
    if not (usual > 0).any():
        return Undefined("real images drive no target above 0")
    return torch.where(usual > 0, activation.double() / usual, torch.nan)
