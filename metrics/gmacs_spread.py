"""Whether a network spends more on some images than on others."""

from torch import Tensor

from bench.contract import Classifier, Undefined, metric
from bench.gating import gated_layers
from metrics._skipping import UNGATED, executed_on


@metric(
    unit="fraction", better="neither", per="set", bounds=(0.0, None), tracks=("training",), resample="none", decimals=6
)
def gmacs_spread(*, real: Tensor, target: Classifier) -> Tensor | Undefined:
    """Standard deviation over images of executed / dense multiply-adds, both sides skipped, modules included.

    0 means that every image costs the same, as static pruning has it, and as gates that keep a fixed number of filters
    nearly have.
    Source: this formula, with N in the denominator, is the definition; no paper to match.
    Beware: equal cost is not an equal path. At most 1 000 images are looked at, evenly spread.

    Args:
        real: (N, C, H, W) test images, intensities in [0, 1].
        target: the trained network as a subject.

    Returns:
        () float64; ``Undefined`` for a network without gates and where there are no images.

    Raises:
        ShapeError: ``real`` is not such images.
    """
    executed = executed_on(real, target)
    if not gated_layers(target.network):
        return UNGATED
    shares = executed.both[~executed.both.isnan()] / executed.dense
    return shares.std(correction=0) if len(shares) else Undefined("there is no image")
