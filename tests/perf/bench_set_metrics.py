"""Seconds and memory of all metrics of sets in the referee's space: ``python tests/perf/bench_set_metrics.py``.

Random float32 features of 2 048 numbers an image are handed to one metric after the other in a process of its own: each
once, on all images and without replicates. (A suite gives classes one by one to those that are per class, which is
less.) The processor's seconds stand beside the wall's: where they are fewer, the machine was busy with something else.
Memory is the largest that the process ever held; on a machine with CUDA the features lie there, and it is the largest
that torch ever held on the device.

- 10 000 generated against 10 000 real images: bars 180 s and 6 GiB, on two cores. Then torch-fidelity's Fréchet
  distance of the same features in the same process, on the processor, and the ratio of seconds, without a bar.
- 50 000 real images: bar 8 GiB. Only 2 000 generated ones stand against them, since two cores take minutes as it is;
  with ``--whole`` there are 50 000, which takes most of an hour.

Exit status 1 when a bar is missed.
"""

import importlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.contract import Undefined
from bench.execute.environment import best_device
from tests.perf.verdict import Verdict

BAR_S, BAR_GIB, BAR_LARGE_GIB = 180.0, 6.0, 8.0
DIMENSIONS = 2048
THREADS = 2
STEMS = (
    "precision",
    "density",
    "recall",
    "coverage",
    "two_sample_accuracy",
    "frechet_referee_penultimate",
    "kernel_referee_penultimate",
    "vendi_referee_cosine",
    "vendi_ratio",
)


def work(count: int, real_count: int, device: torch.device) -> dict[str, Any]:
    """Seconds of each metric, largest memory, and seconds of torch-fidelity where it is at hand."""
    torch.set_num_threads(THREADS)
    draws = torch.Generator().manual_seed(0)
    made, real = (torch.randn(number, DIMENSIONS, generator=draws) for number in (count, real_count))
    sides = {"referee_features": made.to(device), "real_referee_features": real.to(device)}
    spent = time.process_time()
    seconds = {stem: _seconds_of(stem, sides) for stem in STEMS}
    spent = time.process_time() - spent
    used = torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * _resident_kib()
    reference_s = _fidelity_s(made, real) if count == real_count <= 10_000 else None
    return {"seconds": seconds, "processor_s": spent, "memory": used, "reference_s": reference_s}


def _seconds_of(stem: str, sides: dict[str, Tensor]) -> float:
    metric = getattr(importlib.import_module(f"metrics.{stem}"), stem)
    given = {"referee_features": sides["referee_features"]} if stem == "vendi_referee_cosine" else sides
    started = time.perf_counter()
    answer = metric(**given)
    if isinstance(answer, Undefined) or not answer.isfinite().all():  # waits for the device
        raise SystemExit(f"{stem} is {answer}")
    return time.perf_counter() - started


def _resident_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _fidelity_s(made: Tensor, real: Tensor) -> float | None:
    try:
        from torch_fidelity import metric_fid
    except ImportError:
        return None
    started = time.perf_counter()
    statistics = [metric_fid.fid_features_to_statistics(side.double()) for side in (made, real)]
    metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    return time.perf_counter() - started


def apart(count: int, real_count: int) -> dict[str, Any]:
    """``work`` in a process of its own."""
    words = [sys.executable, __file__, "--work", str(count), str(real_count)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(whole: bool) -> int:
    """Measure and print; 1 when a bar is missed."""
    verdict = Verdict()
    print(f"on {best_device()}, {THREADS} threads; 10 000 × 10 000 × {DIMENSIONS}", flush=True)
    found = apart(10_000, 10_000)
    for stem, seconds in found["seconds"].items():
        verdict.only(stem, seconds, "s")
    everything = f"all of them (processor {found['processor_s']:.1f} s)"
    verdict.at_most(everything, sum(found["seconds"].values()), BAR_S, "s")
    verdict.at_most("memory", found["memory"] / 2**30, BAR_GIB, "GiB")
    if found["reference_s"] is not None:
        verdict.only("Fréchet distance, torch-fidelity", found["reference_s"], "s")
        ours_s = found["seconds"]["frechet_referee_penultimate"]
        verdict.only("Fréchet distance, torch-fidelity to ours", found["reference_s"] / ours_s, "times")
    count = 50_000 if whole else 2_000
    print(f"{count} × 50 000 × {DIMENSIONS}", flush=True)
    found = apart(count, 50_000)
    everything = f"all of them (processor {found['processor_s']:.1f} s)"
    verdict.only(everything, sum(found["seconds"].values()), "s")
    verdict.at_most("memory", found["memory"] / 2**30, BAR_LARGE_GIB, "GiB")
    return verdict.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(work(int(sys.argv[2]), int(sys.argv[3]), best_device())))
    else:
        sys.exit(main(whole="--whole" in sys.argv[1:]))
