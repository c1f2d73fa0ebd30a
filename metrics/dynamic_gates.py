"""How many filters a network uses for some images and not for others."""

import torch
from torch import Tensor

from bench.contract import Classifier, Undefined, metric
from bench.gating import gated_layers, paths_of
from bench.gating.statistics import gate_shares
from bench.ops import check_images
from metrics._paths import lots
from metrics._skipping import MOST_IMAGES, UNGATED


@metric(unit="fraction", better="neither", per="set", bounds=(0.0, 1.0), tracks=("training",), resample="none")
def dynamic_gates(*, real: Tensor, target: Classifier) -> Tensor | Undefined:
    """Share of all filters with a gate that are on for no less than 1 % and no more than 99 % of the images.

    The others are always on or always off: with a share of 0 the network is one that was pruned once and for all.
    Source: the definition is ours, for Li et al. 2020 (Interpretable Neural Network Decoupling, arXiv:1906.01166); the
    paper's own is not known.
    Beware: a gate that follows noise is dynamic too; `path_class_information` says whether it knows the class. At most
    1 000 images are looked at, by lot; with no more than 100, a gate that differs once is dynamic. A gate that scales
    its filter is on where the factor is above 0.

    Args:
        real: (N, C, H, W) test images, intensities in [0, 1].
        target: the trained network as a subject.

    Returns:
        () float64 in [0, 1]; ``Undefined`` for a network without gates and where there are no images.

    Raises:
        ShapeError: ``real`` is not such images.
    """
    check_images(real=real)
    if not gated_layers(target.network):
        return UNGATED
    if not len(real):
        return Undefined("there is no image")
    bits = paths_of(target, real[lots(real)[:MOST_IMAGES]]).joined()
    return torch.tensor(gate_shares(bits).dynamic, dtype=torch.float64)
