"""What a generator is told: which class it is asked for, and how sure the subject is to be of it.

Letters besides those of ``bench.contract``: **N** conditioned classes, **M** = ⌈√N⌉.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import SetupError

FLAT = 20  # up to so many classes a soft vector of temperature 1 still says something [our choice]
SHARP_TEMPERATURE = 0.25  # above that


def class_map(conditioned: int, outputs: int, mapping: Sequence[int] = ()) -> tuple[int, ...]:
    """The subject's class of each conditioned one, N of K; without ``mapping`` all K, each its own.

    Raises:
        SetupError: N < 2, N > K, N < K without a mapping, or a mapping that is not N different classes of the K.
    """
    if conditioned < 2:
        raise SetupError(f"{conditioned} conditioned classes", "soft vectors and pairs need at least 2")
    if conditioned > outputs:
        raise SetupError(f"{conditioned} conditioned classes, the subject has {outputs}", "condition on fewer")
    if not mapping:
        if conditioned < outputs:
            raise SetupError(
                f"{conditioned} conditioned classes of the subject's {outputs}", "class_map has to say which they are"
            )
        return tuple(range(outputs))
    if len(mapping) != conditioned:
        raise SetupError(f"class_map names {len(mapping)} classes, {conditioned} are conditioned", "name each once")
    for place, entry in enumerate(mapping):
        if not 0 <= entry < outputs:
            raise SetupError(f"class_map[{place}] is {entry}", f"the subject has classes 0 to {outputs - 1}")
        if entry in mapping[:place]:
            raise SetupError(f"class_map names class {entry} twice", "name each once")
    return tuple(mapping)


def default_temperature(classes: int) -> float:
    """1 up to 20 classes, 0.25 above: at N = 1000 and temperature 1 the softmax is nearly flat [our choice]."""
    return 1.0 if classes <= FLAT else SHARP_TEMPERATURE


def first_argmax(numbers: Tensor) -> Tensor:
    """(B,) place of each row's largest number, the lowest of equal ones on every device."""
    places = torch.arange(numbers.shape[1], device=numbers.device)
    largest = numbers == numbers.max(1, keepdim=True).values
    return torch.where(largest, places, numbers.shape[1]).min(1).values


def soft_vectors(normals: Tensor, temperature: float, wanted: Tensor | None = None) -> Tensor:
    """(B, N) probabilities softmax(v / τ), whose argmax is the class asked for.

    With ``wanted`` the largest entry of v changes places with the wanted one: exactly the law of v given its argmax,
    because its entries are exchangeable [derived].

    Args:
        normals: (B, N) v, independent standard normal numbers.
        temperature: τ > 0.
        wanted: (B,) int64 in [0, N), or None to let v decide.
    """
    if wanted is not None:
        largest = first_argmax(normals)[:, None]
        top, other = normals.gather(1, largest), normals.gather(1, wanted[:, None])
        normals = normals.scatter(1, largest, other).scatter(1, wanted[:, None], top)
    return (normals / temperature).softmax(1)


def hot_matrix(labels: Tensor, classes: int) -> Tensor:
    """(B, 1, N, N): ones in the label's row and in its column, zeros elsewhere [follow-up 2410.16884]."""
    hot = F.one_hot(labels, classes).bool()
    return (hot[:, :, None] | hot[:, None, :])[:, None].float()


def factored_cross(labels: Tensor, classes: int) -> Tensor:
    """(B, 1, M, M): ones in row ⌊y / M⌋ and in column y mod M, one cross a class [our choice]."""
    side = cross_side(classes)
    row, column = (F.one_hot(part, side).bool() for part in (labels // side, labels % side))
    return (row[:, :, None] | column[:, None, :])[:, None].float()


def cross_side(classes: int) -> int:
    """M, the side of the smallest square matrix with a place for each class."""
    return math.isqrt(classes - 1) + 1
