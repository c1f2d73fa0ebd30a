"""What a network loses when the path of a class is taken away from it, and what it does on the path of another.

All definitions are ours [ours]. **N** images, **C** filters of a layer, **K** classes, **S** sets of filters. Every
function runs the network in eval mode with some gates fixed, and leaves it as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import Classifier
from bench.gating.layers import Edit, edited, fixed_to
from bench.gating.statistics import ALWAYS_OFF, ALWAYS_ON, NAN, Frequencies

BATCH = 128
Paths = Mapping[str, Tensor]  # layer → (C,) or (N, C) bool


def predictions_with(model: Classifier, images: Tensor, *, off: Paths | None = None, on: Paths | None = None) -> Tensor:
    """(N,) int64 predicted classes while some gates do not follow the image.

    Args:
        off: layer → (C,) bool, the filters that are forced off; the other gates stay as they are.
        on: layer → (C,) or (N, C) bool, the whole path that the layer is forced onto.
    """
    found = []
    for first in range(0, len(images), BATCH):
        rows = slice(first, first + BATCH)
        edits: dict[str, Edit] = {layer: _without(filters) for layer, filters in (off or {}).items()}
        edits |= {layer: fixed_to(bits if bits.ndim == 1 else bits[rows]) for layer, bits in (on or {}).items()}
        with torch.no_grad(), edited(model.network, edits):
            found.append(model(images[rows]).argmax(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=images.device)


def _without(filters: Tensor) -> Edit:
    return lambda gates: gates * (~filters).to(gates)


def class_accuracies(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(K,) float64 share of each class's images that are right; NaN for a class without an image."""
    members = (labels[:, None] == torch.arange(num_classes, device=labels.device)).double()
    return members.T @ (predictions == labels).double() / members.sum(0)


# ---- silencing -----------------------------------------------------------------------------------------------------


def class_filters(frequencies: Frequencies, size: int) -> Tensor:
    """(K, C) bool: the filters that each class uses most beyond what the classes use on average; none without images.

    Args:
        size: m, how many of each class.
    """
    contrast = frequencies.contrast
    chosen = _largest(contrast.nan_to_num(0.0), size)
    return chosen & (frequencies.counts > 0)[:, None]


def random_dynamic_filters(rates: Tensor, size: int, draws: int, generator: torch.Generator) -> Tensor:
    """(S, C) bool: sets of equal size among the filters that some images use and some do not.

    Args:
        rates: (C,) on-rates.
        generator: on the CPU.

    Returns:
        No sets at all where there are fewer such filters than a set needs.
    """
    dynamic = (rates <= ALWAYS_ON) & (rates >= ALWAYS_OFF)
    order = torch.rand(draws, len(rates), generator=generator).to(rates.device)
    chosen = _largest(torch.where(dynamic, order, -1.0), size)
    return chosen if dynamic.sum() >= size else chosen[:0]


def most_active_filters(activations: Tensor, size: int) -> Tensor:
    """(1, C) bool: the filters with the largest mean output; ``activations`` is (N, C), before the gates."""
    return _largest(activations.mean(0)[None], size)


def _largest(values: Tensor, size: int) -> Tensor:
    """(S, C) bool: the ``size`` largest of each row."""
    chosen = torch.zeros_like(values, dtype=torch.bool)
    return chosen.scatter_(1, values.topk(size, dim=1).indices, True)


def silenced_accuracies(
    model: Classifier, images: Tensor, labels: Tensor, layer: str, filters: Tensor, num_classes: int
) -> Tensor:
    """(S, K) accuracy on each class while a set of filters is off for every image; NaN for a set without filters.

    Args:
        filters: (S, C) bool; equal sets are run once.
    """
    sets, place = filters.unique(dim=0, return_inverse=True)
    found = torch.full((len(sets), num_classes), NAN, dtype=torch.float64, device=images.device)
    for one in sets.any(1).nonzero()[:, 0].tolist():
        found[one] = class_accuracies(predictions_with(model, images, off={layer: sets[one]}), labels, num_classes)
    return found[place]


@dataclass(frozen=True)
class Drops:
    """Accuracy lost by silencing, float64, one number a class; NaN for a class without an image or without filters.

    Args:
        own: on the class itself.
        others: mean over the other classes.
    """

    own: Tensor
    others: Tensor

    @property
    def selectivity(self) -> Tensor:
        """drop(c) − mean drop(others)."""
        return self.own - self.others


def drops_of_classes(before: Tensor, silenced: Tensor) -> Drops:
    """Of sets that belong to one class each.

    Args:
        before: (K,) accuracies of the network as it is.
        silenced: (S, K), row c with the filters of class c off; S may be less than K.
    """
    own, others = own_and_others(before - silenced)
    return Drops(own, others + 0 * own)  # a class that has no drop has nothing to compare with either


def own_and_others(table: Tensor) -> tuple[Tensor, Tensor]:
    """(S,) the entry of each row's own class, and the mean over the others, of (S, K) numbers; S may be less than K."""
    is_own = torch.eye(*table.shape, dtype=torch.bool, device=table.device)
    return table.diagonal(), table.masked_fill(is_own, NAN).nanmean(1)


def drops_of_any(before: Tensor, silenced: Tensor) -> Drops:
    """Of sets that belong to no class, mean over the sets; NaN without any.

    The mean of its selectivity over all classes is 0 whatever the sets: only the drops and single classes tell.

    Args:
        before: (K,) accuracies of the network as it is.
        silenced: (S, K).
    """
    return drops_of_classes(before, silenced.mean(0).expand(len(before), -1))


# ---- paths that do not follow the image ----------------------------------------------------------------------------


def mean_path(bits: Tensor) -> Tensor:
    """(C,) bool: the filters that are on most often, as many as are on for an image on average."""
    return _largest(bits.double().mean(0)[None], path_size(bits))[0]


def random_path(bits: Tensor, generator: torch.Generator) -> Tensor:
    """(C,) bool: as many filters, drawn at random; the generator is on the CPU."""
    order = torch.rand(1, bits.shape[1], generator=generator).to(bits.device)
    return _largest(order, path_size(bits))[0]


def path_size(bits: Tensor) -> int:
    """How many of the layer's filters are on for an image, rounded."""
    return round(bits.double().sum(1).mean().item())


def subnetwork_accuracies(
    model: Classifier, images: Tensor, labels: Tensor, paths: Mapping[str, Tensor], num_classes: int
) -> Tensor:
    """(S, K) accuracy on each class while all images run on one fixed path.

    Args:
        paths: layer → (S, C) bool, the path of the first class that is asked for in the first row.
    """
    count = len(next(iter(paths.values())))
    rows = [
        class_accuracies(
            predictions_with(model, images, on={layer: bits[one] for layer, bits in paths.items()}), labels, num_classes
        )
        for one in range(count)
    ]
    return torch.stack(rows)


@dataclass(frozen=True)
class Swap:
    """What became of images on the path of an image of another class.

    Args:
        to_donor: share whose prediction became the class of the image that the path is from.
        away: share whose prediction changed at all.
        count: images.
    """

    to_donor: float
    away: float
    count: int


def path_swap(
    model: Classifier,
    images: Tensor,
    predictions: Tensor,
    bits: Mapping[str, Tensor],
    layers: Sequence[str],
    generator: torch.Generator,
) -> Swap:
    """Run every image on the path that a random image of another predicted class has in ``layers``.

    Args:
        predictions: (N,) of the network as it is; give only images that it gets right.
        bits: layer → (N, C) bool, the paths of the same images.
        generator: on the CPU.
    """
    if len(predictions.unique()) < 2:
        return Swap(NAN, NAN, 0)
    chance = torch.rand(len(images), len(images), generator=generator).to(images.device)
    donors = chance.masked_fill(predictions[:, None] == predictions, -1.0).argmax(1)
    moved = predictions_with(model, images, on={layer: bits[layer][donors] for layer in layers})
    return Swap(
        (moved == predictions[donors]).double().mean().item(),
        (moved != predictions).double().mean().item(),
        len(images),
    )
