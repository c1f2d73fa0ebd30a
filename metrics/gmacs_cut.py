"""What share of a network's arithmetic its gates save, image by image."""

from torch import Tensor

from bench.contract import Classifier, Undefined, metric
from bench.gating import gated_layers
from metrics._skipping import UNGATED, executed_on


@metric(unit="fraction", better="higher", per="image", bounds=(None, 1.0), tracks=("training",), partial=True)
def gmacs_cut(*, real: Tensor, target: Classifier) -> Tensor | Undefined:
    """1 − executed / dense: multiply-adds that skip mode runs, modules included, over those without gates.

    Off filters are skipped, and so are off channels of masked inputs. Below 0 where all filters are on: the modules
    cost something.
    Source: the definition is ours; whether Li et al. 2020 (arXiv:1906.01166) count both sides is not known, see
    `gmacs_cut_outputs`.
    Beware: arithmetic saved is not time saved, see `skip_speedup_batch1`. At most 1 000 images are looked at, evenly
    spread.

    Args:
        real: (N, C, H, W) test images, intensities in [0, 1].
        target: the trained network as a subject.

    Returns:
        (N,) float64, at most 1, NaN for images that were not looked at; ``Undefined`` for a network without gates.

    Raises:
        ShapeError: ``real`` is not such images.
    """
    executed = executed_on(real, target)
    return 1 - executed.both / executed.dense if gated_layers(target.network) else UNGATED
