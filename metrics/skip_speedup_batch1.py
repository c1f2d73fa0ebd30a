"""How many times as fast one image is when filters that are off are skipped."""

from torch import Tensor

from bench.contract import Classifier, Undefined, metric
from metrics._skipping import median_ms, ratio_of


@metric(unit="×", better="higher", per="set", bounds=(0.0, None), tracks=("training",), resample="none", decimals=3)
def skip_speedup_batch1(*, real: Tensor, target: Classifier, repeats: int = 100) -> Tensor | Undefined:
    """Milliseconds of the same network without gates over those in skip mode, medians, 1 image.

    Both are measured in one run in turns on the same images, in `skip_latency_ms_batch1`'s way; above 1 time is saved.
    Source: Li et al. 2020 (arXiv:1906.01166) claim acceleration; how they measured is not known, this way is ours.
    Beware: part of it is batch norm, which skip mode folds into the kernels and the dense network does not: see
    `skip_speedup_folded_batch1`. A property of this machine and number of threads, too, and of how many paths the
    images take: see `skip_latency_ms_batch1`.

    Args:
        real: (N, C, H, W) test images, intensities in [0, 1]: gates depend on the input, so each turn takes other ones.
        target: the trained network as a subject.
        repeats: turns that count.

    Returns:
        () float64; ``Undefined`` for a network without gates, and for one that is too slow for ten turns in two
        minutes.

    Raises:
        ShapeError: ``real`` is not such images.
        Unsupported: the network cannot be traced, which folding needs.
    """
    return ratio_of(median_ms(real, target, 1, repeats), "dense", "skip")
