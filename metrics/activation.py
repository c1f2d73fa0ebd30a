"""How strongly the images drive the neuron that they should show."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_axes, check_finite


@metric(unit="activation", better="higher", per="image", bounds=(None, None), tracks=("visualization",))
def activation(*, activation: Tensor) -> Tensor:
    """The neuron's activation on each image: the class logit, or the channel's mean over places.

    Source: the objective of Erhan et al. 2009 (Visualizing higher-layer features of a deep network); no value to match.
    Beware: it is in the subject's own units and compares methods on one subject and neuron, never two subjects; and
    noise that nobody would recognise drives a neuron furthest.

    Args:
        activation: (N,) float.

    Returns:
        (N,) float64.

    Raises:
        ShapeError: other axes, or numbers that are not finite.
    """
    check_axes(activation=(activation, "N"))
    check_finite(activation=activation)
    return activation.double()
