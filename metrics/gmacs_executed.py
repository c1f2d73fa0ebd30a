"""How much arithmetic an image costs when filters that are off are skipped."""

from torch import Tensor

from bench.contract import Classifier, metric
from metrics._skipping import executed_on


@metric(unit="GMAC", better="lower", per="image", bounds=(0.0, None), tracks=("training",), decimals=6, partial=True)
def gmacs_executed(*, real: Tensor, target: Classifier) -> Tensor:
    """Multiply-adds, in 1e9, that skip mode runs for each image, the modules that decide included.

    A convolution costs its filters that are on times its input channels that are on, where the input is masked; the sum
    at the end of a residual block is dense. Bias, batch norm and pools count nothing, the classifier counts. A network
    without gates costs its dense count for every image.
    Source: the definition is ours, by Li et al. 2020 (Interpretable Neural Network Decoupling, arXiv:1906.01166), whose
    own way to count is not known.
    Beware: it is not time, see `skip_speedup_batch1`. At most 1 000 images are looked at, evenly spread. Only
    convolutions and linear layers are counted, so that a dense network comes out below `gmacs_fvcore`, which also
    counts normalisation and attention.

    Args:
        real: (N, C, H, W) test images, intensities in [0, 1].
        target: the trained network as a subject.

    Returns:
        (N,) float64 in 1e9 multiply-adds; NaN for images that were not looked at.

    Raises:
        ShapeError: ``real`` is not such images.
    """
    return executed_on(real, target).both / 1e9
