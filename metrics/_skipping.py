"""What skipping the filters that are off saves: multiply-adds counted image by image, and time."""

import copy
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from bench.contract import Classifier, Undefined
from bench.gating import gated_layers, multiply_adds, paths_of, skipping
from bench.gating.plain import dense_copy, folded_copy
from bench.ops import check_images
from metrics._shared import shared

UNGATED = Undefined("the network has no gates")
MOST_IMAGES = 1000
WARM_UP, FEWEST = 10, 10  # passes of each network that do not count, and without which there is no median
PATIENCE_S, LIMIT_S = 20.0, 120.0  # then fewer than `repeats` passes will do; then fewer than FEWEST are refused


# ---- multiply-adds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Executed:
    """Multiply-adds of each image; NaN for images that were not looked at.

    Args:
        dense: of the network without gates.
        both: (N,) float64, gates included, when off filters and off input channels are skipped.
        outputs: (N,) float64, gates included, when only off filters are.
    """

    dense: int
    both: Tensor
    outputs: Tensor


@shared
def executed_on(real: Tensor, target: Classifier) -> Executed:
    """Count, on at most 1 000 images, evenly spread.

    Args:
        real: (N, C, H, W) in [0, 1].

    Raises:
        ShapeError: ``real`` is not such images.
    """
    check_images(real=real)
    count = multiply_adds(target.network, target.image_shape)
    both = torch.full((len(real),), float(count.dense), dtype=torch.float64, device=real.device)
    if not gated_layers(target.network):
        return Executed(count.dense, both, both)
    looked_at = torch.arange(0, len(real), max(1, -(-len(real) // MOST_IMAGES)), device=real.device)
    bits = paths_of(target, real[looked_at]).bits
    both, outputs = (
        torch.full_like(both, torch.nan).index_copy(0, looked_at, count.executed(bits, inputs=inputs))
        for inputs in (True, False)
    )
    return Executed(count.dense, both, outputs)


# ---- time ----------------------------------------------------------------------------------------------------------


@shared
def median_ms(real: Tensor, target: Classifier, batch: int, repeats: int) -> Mapping[str, float] | Undefined:
    """Median milliseconds of one forward pass of the bare network in four ways, which take turns on the same images.

    "dense" has no gates, "folded" no batch norm either where it follows a convolution, "mask" computes every filter
    and multiplies, "skip" computes those that are on. On a GPU the queue is waited for at both ends.

    Args:
        real: (N, C, H, W) in [0, 1]; each turn takes the next ``batch`` of them, round and round.
        repeats: turns that count, after ten that do not; fewer, at least ten, when those take more than 20 seconds.

    Raises:
        ShapeError: ``real`` is not such images.
        Unsupported: the network cannot be traced, which folding needs.
    """
    check_images(real=real)
    if not gated_layers(target.network):
        return UNGATED
    if repeats < FEWEST:
        return Undefined(f"a median of {repeats} passes says nothing, {FEWEST} are needed")
    if not len(real):
        return Undefined("no image to time")
    with ExitStack() as stack:
        skip = copy.deepcopy(target.network)
        stack.enter_context(skipping(skip))
        ways = {
            "dense": dense_copy(target.network),
            "folded": folded_copy(target.network),
            "mask": target.network,
            "skip": skip,
        }
        return _in_turns(ways, target, real, batch, repeats)


def _in_turns(
    ways: Mapping[str, nn.Module], target: Classifier, real: Tensor, batch: int, repeats: int
) -> Mapping[str, float] | Undefined:
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in names}
    started = time.perf_counter()
    for turn in range(WARM_UP + repeats):
        places = torch.arange(turn * batch, (turn + 1) * batch, device=real.device) % len(real)
        images = target.normalise(real[places])
        for place in range(len(names)):  # another one comes first each turn
            name = names[(turn + place) % len(names)]
            taken[name].append(_seconds(ways[name], images))
        counted, spent = turn + 1 - WARM_UP, time.perf_counter() - started
        if counted < FEWEST and spent > LIMIT_S:
            return Undefined(f"too slow: {max(0, counted)} passes in {spent:.0f} s, a median needs {FEWEST}")
        if counted >= FEWEST and spent > PATIENCE_S:
            break
    return {name: 1000 * median(seconds[WARM_UP:]) for name, seconds in taken.items()}


def _seconds(network: nn.Module, images: Tensor) -> float:
    _wait(images.device)
    start = time.perf_counter()
    network(images)
    _wait(images.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio_of(times: Mapping[str, float] | Undefined, above: str, below: str) -> Tensor | Undefined:
    """() float64: how many times as long the one takes as the other."""
    if isinstance(times, Undefined):
        return times
    return torch.tensor(times[above] / times[below], dtype=torch.float64)
