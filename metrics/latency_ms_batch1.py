"""How long one image takes the trained network."""

import torch
from torch import Tensor

from bench.contract import Classifier, metric
from metrics._timing import latency_ms


@metric(unit="ms", better="lower", per="set", bounds=(0.0, None), tracks=("training",), resample="none", decimals=3)
def latency_ms_batch1(*, target: Classifier, repeats: int = 20) -> Tensor:
    """Median milliseconds of a forward pass with 1 image, measured when the reading is taken.

    A batch of one shows the overhead of each layer. Three untimed passes come first; fewer repeats, at least three,
    where they take more than two seconds. The bare network without normalisation, float32, with the cell's number of
    threads.
    Source: the usual definition; no paper to match.
    Beware: it is the time of this machine, device and number of threads, and of what else ran meanwhile: other workers
    on the same processor slow it down. Compare it only between rows of one host.

    Args:
        target: the trained network as a subject.
        repeats: timed passes.

    Returns:
        () float64 milliseconds.

    Raises:
        RuntimeError: the network cannot run on such a batch.
    """
    return torch.tensor(latency_ms(target, batch=1, repeats=repeats), dtype=torch.float64)
