"""How many times as fast 64 images are when filters that are off are skipped."""

from torch import Tensor

from bench.contract import Classifier, Undefined, metric
from metrics._skipping import median_ms, ratio_of


@metric(unit="×", better="higher", per="set", bounds=(0.0, None), tracks=("training",), resample="none", decimals=3)
def skip_speedup_batch64(*, real: Tensor, target: Classifier, repeats: int = 100) -> Tensor | Undefined:
    """Milliseconds of the same network without gates over those in skip mode, medians, 64 images.

    Both are measured in one run in turns on the same images, in `skip_latency_ms_batch64`'s way; above 1 time is saved.
    Source: Li et al. 2020 (arXiv:1906.01166) claim acceleration; how they measured is not known, this way is ours.
    Beware: of 64 images hardly two share a path, and what is computed image by image loses what a batch gains. A
    property of this machine and number of threads, too.

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
    return ratio_of(median_ms(real, target, 64, repeats), "dense", "skip")
