"""How long a network takes for a batch, measured here and now."""

import time
from statistics import median

import torch

from bench.contract import Classifier

WARM_UP = 3
PATIENCE_S = 2.0  # a slow network is repeated less often, but never fewer than three times


def latency_ms(target: Classifier, batch: int, repeats: int) -> float:
    """Median milliseconds of one forward pass of the bare network, without a graph.

    ``target`` itself would fill the batch up and count the passes. On a GPU the queue is waited for at both ends.

    Args:
        batch: images, all grey.
        repeats: timed passes after three untimed ones; fewer, at least three, when they take longer than two seconds.
    """
    device = next((tensor.device for tensor in target.network.parameters()), torch.device("cpu"))
    images = target.normalise(torch.full((batch, *target.image_shape), 0.5, device=device))
    taken: list[float] = []
    with torch.no_grad():
        for _ in range(WARM_UP):
            _seconds(target, images)
        while len(taken) < repeats and (len(taken) < 3 or sum(taken) < PATIENCE_S):
            taken.append(_seconds(target, images))
    return 1000 * median(taken)


def _seconds(target: Classifier, images: torch.Tensor) -> float:
    _wait(images.device)
    start = time.perf_counter()
    target.network(images)
    _wait(images.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
