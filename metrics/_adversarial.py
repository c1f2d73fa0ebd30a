"""Which images an attack is judged on: those that the subject had right before."""

from torch import Tensor

from bench.contract import Undefined
from bench.ops import label_place

NONE_RIGHT = Undefined("no image was right before the attack")


def was_right(clean_logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: the original's largest logit is its label."""
    return label_place(clean_logits, labels) < 1


def succeeded(target_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: right before the attack and wrong after it."""
    return was_right(clean_logits, labels) & (label_place(target_logits, labels) > 0)


def is_seen_as(logits: Tensor, classes: Tensor) -> Tensor:
    """(N,) float64 of 0 and 1: the largest of each image's (N, K) logits is that of its class."""
    return (label_place(logits, classes) < 1).double()


def l2_distance(generated: Tensor, real: Tensor) -> Tensor:
    """(N,) float64 Euclidean length of x̂ − x over all pixels and channels of each image."""
    return (generated.double() - real.double()).square().flatten(1).sum(1).sqrt()
