"""How much of a GPU's memory the method needed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.contract import TRACKS, Undefined, metric


@metric(unit="MiB", better="lower", per="set", bounds=(0.0, None), tracks=tuple(TRACKS), resample="none", decimals=1)
def peak_memory_mib(*, cost: Mapping[str, float | None]) -> Tensor | Undefined:
    """Largest memory that tensors held on the GPU while the method ran, in MiB (2²⁰ bytes).

    gpu_peak_mib: torch's own count, reset before the method starts.
    Source: torch.cuda.max_memory_allocated; https://pytorch.org/docs/stable/cuda.html.
    Beware: data and networks that the worker keeps for its other cells are in it, so it depends on what ran before; it
    grows with the batch size; and what the allocator holds in reserve is not in it.

    Args:
        cost: the record's cost columns, ``gpu_peak_mib`` among them.

    Returns:
        () float64 MiB; ``Undefined`` on a processor alone.

    Raises:
        KeyError: ``cost`` lacks it.
    """
    peak = cost["gpu_peak_mib"]
    return Undefined("measured on a GPU only") if peak is None else torch.tensor(peak, dtype=torch.float64)
