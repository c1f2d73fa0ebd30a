"""What a step of VITAL costs: ``python tests/perf/bench_visualization.py [rounds]``.

- Sort matching on maps as large as ResNet-50's five taps at 224 pixels, one image, 50 references, random numbers behind
  a ReLU: value and gradient by one sort with the references' sorted means at hand, against the same with means made
  anew, and against ranks (argsort of argsort) and gathered means with autograd's gradient. Values and gradients have to
  be equal. Bars: 40 and 1.6 times the speed.
- A step of ``Vital`` on torchvision's ResNet-50 with its first weights (batch 8, to which the wrapper fills anyway)
  over the bare forward and backward pass of the same wrapped network. Bars: 1.7 for classes, 4 for channels of layer4
  with relevance.
- 16 targets at once against one at a time, in images a second, the one filled to 8 as usual, and alone. Bars: 1 and 1.
- With CUDA, also there: 16 targets at once against one at a time, and the share of a step that is not the network's
  passes; bars 6 and 25 %. Without bars, seconds of 2 000 steps, also with the options that ``Vital`` has for a GPU.

The time of a step is the difference between two runs of ``visualize``, whose start and end it leaves out; references
are few and noise, which changes nothing in a step. Ratios are medians over rounds of neighbouring times, so that
whatever else the machine does falls on both. Bars without CUDA are for one thread of a CPU. Exit status 1 when a bar is
missed.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.contract import VisualizationTask
from bench.execute.environment import best_device
from bench.sort_matching import sort_matching_loss, sorted_mean
from bench.zoo import classifier
from bench.zoo.classifier import Classifier
from bench.zoo.networks import untrained, wrap
from methods.visualization.vital import Known, Vital
from tests.perf.verdict import Verdict

ANEW_BAR, RANKS_BAR, CLASS_BAR, CHANNEL_BAR, TOGETHER_BAR = 40.0, 1.6, 1.7, 4.0, 1.0
GPU_TOGETHER_BAR, GPU_SHARE_BAR = 6.0, 25.0
THREADS = 1  # two, on cores that others use too, wait for each other
TAPS = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))  # channels and side of ResNet-50's maps
REFERENCES = 50
AGREE = 1e-5  # of values and gradients, relative
BATCH, TOGETHER = 8, 16
STEPS = 2000  # the code's number of steps, whose seconds are told
GPU_STEPS = 20  # that are timed at once
SHAPE, CLASSES = (3, 224, 224), 1000

Kind = Literal["class", "channel"]


def now(device: torch.device) -> float:
    """The clock, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    started = now(device)
    work()
    return now(device) - started


# ---- sort matching -------------------------------------------------------------------------------------------------

Matched = tuple[float, list[Tensor]]  # the loss over all taps, and its gradient at each


def matched(maps: Sequence[Tensor], losses: Callable[[int, Tensor], Tensor]) -> Matched:
    """Value and gradient of the sum of the taps' losses, each of its place and features."""
    features = [one.detach().requires_grad_() for one in maps]
    loss = sum((losses(place, one).sum() for place, one in enumerate(features)), torch.zeros(()))
    return float(loss.detach()), list(torch.autograd.grad(loss, features))


def by_ranks(features: Tensor, targets: Tensor) -> Tensor:
    """(N,) losses as one writes them down: each value against the target of its rank."""
    ranks = features.detach().argsort(dim=2, stable=True).argsort(dim=2)
    return (features - targets.gather(2, ranks)).square().mean((1, 2))


def compare_sorting(verdict: Verdict, rounds: int) -> None:
    """One image's maps against 50 references, three ways."""
    draws = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, width, side**2, generator=draws).relu_() for width, side in TAPS]
    real = [torch.randn(REFERENCES, width, side**2, generator=draws).relu_() for width, side in TAPS]
    means = [sorted_mean(one)[None] for one in real]
    sides: dict[str, Callable[[], Matched]] = {
        "one sort": lambda: matched(maps, lambda place, one: sort_matching_loss(one, means[place])),
        "ranks": lambda: matched(maps, lambda place, one: by_ranks(one, means[place])),
        "references anew": lambda: matched(
            maps, lambda place, one: sort_matching_loss(one, sorted_mean(real[place])[None])
        ),
    }
    value, slopes = sides["one sort"]()
    for name, side in sides.items():
        other, others = side()
        equal = all(torch.allclose(one, two, rtol=AGREE, atol=0.0) for one, two in zip(slopes, others, strict=True))
        if abs(other - value) > AGREE * value or not equal:
            raise SystemExit(f"sort matching: {name} gives another value or gradient than one sort")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(seconds(side, torch.device("cpu")))
    for name, taken in times.items():
        verdict.only(f"sort matching, {name}: median", 1e3 * statistics.median(taken), "ms")
    for name, bar in (("references anew", ANEW_BAR), ("ranks", RANKS_BAR)):
        ratio = statistics.median(slow / own for own, slow in zip(times["one sort"], times[name], strict=True))
        verdict.at_least(f"sort matching: speed over {name}", ratio, bar, "×")


# ---- a step --------------------------------------------------------------------------------------------------------


def subject(device: torch.device) -> Classifier:
    """torchvision's ResNet-50 with its first weights: time is all that is asked here."""
    name = "resnet50.IMAGENET1K_V1"
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    network = untrained(name, num_classes=CLASSES, image_shape=SHAPE, mean=mean, std=std, seed=0)
    return wrap(network, name=name, num_classes=CLASSES, image_shape=SHAPE).to(device)


def task_of(model: Classifier, kind: Kind, count: int, device: torch.device) -> VisualizationTask:
    """So many classes with a reference each, or channels of layer4."""
    places = torch.arange(count, device=device)
    references = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
    return VisualizationTask(
        model=model,
        places=places,
        seed=0,
        budget=10**6,
        kind=kind,
        tap=None if kind == "class" else "layer4",
        targets=places,
        references=references,
        reference_labels=places,
    )


def fitted(vital: Vital, task: VisualizationTask) -> VisualizationTask:
    """The task with what the method learnt of its references."""
    reason = vital.why_not(task)
    if reason:
        raise SystemExit(f"vital {reason}")
    return task.replace(fitted=vital.fit(task))


def first(task: VisualizationTask, count: int) -> VisualizationTask:
    """Its first images, with what was learnt for all."""
    return task.replace(places=task.places[:count], targets=task.targets[:count])


def step_seconds(vital: Vital, task: VisualizationTask, steps: int = 1) -> float:
    """Of a step, after the first."""
    known: Known = task.fitted

    def run(count: int) -> None:
        vital.visualize(task.replace(budget=known.passes + count * known.eye.passes))

    short, long = (seconds(lambda count=count: run(count), task.device) for count in (1, 1 + steps))
    return (long - short) / steps


def bare(model: Classifier, count: int, device: torch.device) -> Callable[[], object]:
    """The network's passes alone: logits of so many images, and the gradient at the images."""
    images = torch.rand(count, *SHAPE, device=device).requires_grad_()
    return lambda: torch.autograd.grad(model(images).sum(), images)


def compare_step(verdict: Verdict, name: str, vital: Vital, task: VisualizationTask, bar: float, rounds: int) -> None:
    """A step over bare passes just before and after it."""
    passes = bare(task.model, len(task), task.device)
    passes()
    found = []
    for _ in range(rounds):
        before, step, after = seconds(passes, task.device), step_seconds(vital, task), seconds(passes, task.device)
        found.append((step, (before + after) / 2))
    verdict.only(f"{name}: a step, median", statistics.median(step for step, _ in found), "s")
    verdict.only(f"{name}: bare passes, median", statistics.median(plain for _, plain in found), "s")
    verdict.at_most(f"{name}: a step over bare passes", statistics.median(s / plain for s, plain in found), bar, "×")


# ---- many targets at once ------------------------------------------------------------------------------------------


@contextmanager
def unfilled() -> Iterator[None]:
    """Batches as they are."""
    usual, classifier.FILL = classifier.FILL, 1
    try:
        yield
    finally:
        classifier.FILL = usual


def compare_together(verdict: Verdict, vital: Vital, task: VisualizationTask, rounds: int) -> None:
    """Images a second of all targets at once over those of one at a time."""
    times: dict[str, list[float]] = {"together": [], "filled to 8": [], "alone": []}
    one = first(task, 1)
    for _ in range(rounds):
        times["together"].append(step_seconds(vital, task) / len(task))
        times["filled to 8"].append(step_seconds(vital, one, steps=2))
        with unfilled():
            times["alone"].append(step_seconds(vital, one, steps=4))
    for name, taken in times.items():
        verdict.only(f"an image's step, {name}: median", statistics.median(taken), "s")
    for name in ("filled to 8", "alone"):
        ratio = statistics.median(slow / own for own, slow in zip(times["together"], times[name], strict=True))
        verdict.at_least(f"{len(task)} targets at once: images a second over one, {name}", ratio, TOGETHER_BAR, "×")


def measure_gpu(verdict: Verdict, device: torch.device, rounds: int) -> None:
    """The same there, with the share of a step that is not the network's passes, and what the options for it change."""
    task = task_of(subject(device), "class", TOGETHER, device)
    passes = bare(task.model, TOGETHER, device)
    plain, fast = Vital(references=1), Vital(references=1, autocast=True, channels_last=True)
    plain_task, fast_task = fitted(plain, task), fitted(fast, task)
    one = first(plain_task, 1)
    found = []
    for _ in range(1 + rounds):  # one to warm up
        step, alone = step_seconds(plain, plain_task, GPU_STEPS), step_seconds(plain, one, GPU_STEPS)
        network = seconds(lambda: [passes() for _ in range(GPU_STEPS)], device) / GPU_STEPS
        found.append((step, alone, network, step_seconds(fast, fast_task, GPU_STEPS)))
    steps, alones, networks, fasts = (statistics.median(taken) for taken in zip(*found[1:], strict=True))
    verdict.only(f"GPU: {STEPS} steps of {TOGETHER} images", STEPS * steps, "s")
    verdict.only(f"GPU: {STEPS} steps of 1 image", STEPS * alones, "s")
    verdict.only(f"GPU: {STEPS} steps of {TOGETHER} images, bfloat16 and channels last", STEPS * fasts, "s")
    verdict.at_least("GPU: images a second over one at a time", TOGETHER * alones / steps, GPU_TOGETHER_BAR, "×")
    verdict.at_most("GPU: share of a step that is not the network", 100 * (1 - networks / steps), GPU_SHARE_BAR, "%")


def main(rounds: int = 3) -> int:
    """Measure all of it; 1 when a bar is missed."""
    torch.set_num_threads(THREADS)
    cpu, device, verdict = torch.device("cpu"), best_device(), Verdict()
    print(f"on one thread of {os.cpu_count()}; ResNet-50, {SHAPE[1]} pixels, float32", flush=True)
    compare_sorting(verdict, rounds)
    model = subject(cpu)
    vital = Vital(references=1, weights="equal")  # weights by noise would only make ``fit`` longer
    classes = fitted(vital, task_of(model, "class", TOGETHER, cpu))
    compare_step(verdict, f"class, batch {BATCH}", vital, first(classes, BATCH), CLASS_BAR, rounds)
    inner = Vital(references=BATCH, shortlist=BATCH, patch=SHAPE[1], weights="equal")  # a patch an image
    channels = task_of(model, "channel", BATCH, cpu)
    compare_step(verdict, f"channel, batch {BATCH}", inner, fitted(inner, channels), CHANNEL_BAR, rounds)
    compare_together(verdict, vital, classes, rounds)
    if device.type == "cuda":
        measure_gpu(verdict, device, rounds)
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
