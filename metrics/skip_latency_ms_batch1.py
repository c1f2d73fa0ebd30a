"""How long one image takes when filters that are off are skipped."""

import torch
from torch import Tensor

from bench.contract import Classifier, Undefined, metric
from metrics._skipping import median_ms


@metric(unit="ms", better="lower", per="set", bounds=(0.0, None), tracks=("training",), resample="none", decimals=3)
def skip_latency_ms_batch1(*, real: Tensor, target: Classifier, repeats: int = 100) -> Tensor | Undefined:
    """Median milliseconds of a forward pass with 1 image in skip mode, gates included.

    Measured when the reading is taken. Ten untimed passes come first; fewer repeats, at least ten, where all that takes
    turns takes more than twenty seconds. The bare network without normalisation, float32, with the cell's number of
    threads.
    Source: Li et al. 2020 (arXiv:1906.01166) claim acceleration; how they measured is not known, this way is ours.
    Beware: it is the time of this machine, see `latency_ms_batch1`. A batch of one shows the overhead of each layer.
    Kernels that were cut for a path are kept for later images on it, as far as 16 MiB a layer go: images that take many
    paths are slower than a few that repeat.

    Args:
        real: (N, C, H, W) test images, intensities in [0, 1]: gates depend on the input, so each turn takes other ones.
        target: the trained network as a subject.
        repeats: turns that count.

    Returns:
        () float64 milliseconds; ``Undefined`` for a network without gates, and for one that is too slow for ten turns
        in two minutes.

    Raises:
        ShapeError: ``real`` is not such images.
        Unsupported: the network cannot be traced, which folding needs.
    """
    times = median_ms(real, target, 1, repeats)
    return times if isinstance(times, Undefined) else torch.tensor(times["skip"], dtype=torch.float64)
