"""Distributions of feature channels at several taps, as they are or weighted by what matters to one neuron."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bench.relevance import Flow, Kind
from bench.sort_matching import distributions
from methods.visualization._watched import Watched

SMALL = 1e-6  # added to a range before something is divided by it [code]


@dataclass(frozen=True)
class Seen:
    """What some images show.

    Args:
        features: tap → (B, C, D), with their graph.
        importance: tap → (B, C) in [0, 1], how much of a channel matters to the image's target; empty when all do.
    """

    features: Mapping[str, Tensor]
    importance: Mapping[str, Tensor]


class Eye(Protocol):
    """Looks at images on behalf of their targets; ``passes`` is what a look with its way back costs an image."""

    passes: int

    def __call__(self, images: Tensor, targets: Tensor) -> Seen:
        """(B, C, H, W) intensities and (B,) targets → their features."""
        ...


@dataclass(frozen=True)
class WholeFeatures:
    """Features as they are: for classes.

    Args:
        taps: name → path of the module.
        prefixes: name → tokens to leave out at the beginning.
    """

    watched: Watched
    taps: Mapping[str, str]
    prefixes: Mapping[str, int]
    passes: int = 2

    def __call__(self, images: Tensor, targets: Tensor) -> Seen:
        """See ``Eye``; the targets play no part."""
        seen = self.watched(images)
        return Seen({tap: distributions(seen[path], self.prefixes[tap]) for tap, path in self.taps.items()}, {})


@dataclass(frozen=True)
class RelevantFeatures:
    """Features weighted by their relevance to one channel of a deeper tap, which counts as constant.

    M = (R − min_d R) / (max_d R − min_d R + 10⁻⁶) for each image and channel, F ⊙ M is what is compared, and
    m_c = max_d R scaled in the same way over the channels says how much channel c matters [code].
    """

    flow: Flow
    kind: Kind
    taps: Mapping[str, str]

    @property
    def passes(self) -> int:
        """Forward and backward, and those of the relevance."""
        return 2 + relevance_passes(self.kind)

    def __call__(self, images: Tensor, targets: Tensor) -> Seen:
        """See ``Eye``.

        An image in which nothing is relevant to its target at some tap is looked at as it is there, or it would have no
        gradient and stay as it is for ever [our choice].
        """
        flowed = self.flow(images)
        relevance = flowed.relevance(targets)
        features, importance = {}, {}
        for tap, path in self.taps.items():
            relevant = distributions(relevance[path])  # (B, C, D)
            is_blind = relevant.eq(0).flatten(1).all(1)
            features[tap] = distributions(flowed.features[path]) * _scaled(relevant, 2).masked_fill(
                is_blind[:, None, None], 1.0
            )
            importance[tap] = _scaled(relevant.amax(2), 1).masked_fill(is_blind[:, None], 0.0)
        return Seen(features, importance)


def relevance_passes(kind: Kind) -> int:
    """What the relevance of an image costs beside its forward pass."""
    return 1 if kind == "guided" else 2


def _scaled(numbers: Tensor, axis: int) -> Tensor:
    """To [0, 1] by the smallest and largest along the axis."""
    low, high = numbers.amin(axis, keepdim=True), numbers.amax(axis, keepdim=True)
    return (numbers - low) / (high - low + SMALL)
