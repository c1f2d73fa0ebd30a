"""What the conditioned generator's harness costs: ``python tests/perf/bench_inversion.py [turns]``.

- Training: a whole ``train_generator`` with the four terms of ``ni_v3`` against a bare loop with the same generator,
  random numbers, batch and terms, these as one writes them down (a B × B matrix of cosines), and no wrapper, counting
  or notes. Both train side by side in one process: after each step of ours the bare loop takes one. Their losses have
  to agree, else they did other work. Bar: 0.9 of its steps a second.
- Sampling: ``Trained.sample``, which draws every image's own numbers, against the generator's forward pass on numbers
  that are there already, in turns, with and without dropout. The images have to be equal. Bar: 0.9 of its images a
  second.
- Memory of each term with its backward pass: the most that is allocated at once, over the bytes of the features, for
  batches of 512 to 2 048. Bar: 8 (linear in batch × features). Cosines without sign are no part of any preset, need
  the B × B matrix and have no bar.

Ratios are medians over turns of neighbouring times, so that whatever else the machine does falls on both. On a CPU the
sizes are those of the ``cpu`` profile (width 16, batches of 79, one thread); with CUDA the reference ones (64, 512).
Exit status 1 when a bar is missed.
"""

import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler is talkative

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.conditioned_generator import Additions, Recipe, Trained, losses, train_generator
from bench.conditioned_generator.network import Generator
from bench.conditioned_generator.training import PROBE
from bench.contract import InversionTask, seed_for
from bench.execute.environment import best_device
from bench.zoo.classifier import Classifier
from bench.zoo.networks import untrained, wrap
from tests.perf.verdict import Verdict

TRAINING_BAR, SAMPLING_BAR, MEMORY_BAR = 0.9, 0.9, 8.0
THREADS = 1  # two, on cores that others use too, wait for each other
SHAPE, CLASSES, IMAGES = (1, 28, 28), 10, 1000
SAMPLED = 100  # images of a batch, as in the suite
WARM_UP = 3  # turns that do not count
AGREE = 1e-3  # of the first losses, relative; later ones drift apart as rounding errors grow


def subject(device: torch.device) -> Classifier:
    """The suite's network for MNIST with its first weights: time is all that is asked here."""
    network = untrained("cnn", num_classes=CLASSES, image_shape=SHAPE, mean=[0.1307], std=[0.3081], seed=0)
    return wrap(network, name="cnn", num_classes=CLASSES, image_shape=SHAPE).to(device)


def task_for(device: torch.device, budget: int) -> InversionTask:
    places = torch.arange(IMAGES, device=device)
    return InversionTask(model=subject(device), places=places, seed=0, budget=budget, labels=places % CLASSES)


# ---- training ------------------------------------------------------------------------------------------------------


def bare_generator(recipe: Recipe, task: InversionTask) -> Generator:
    """The generator that ours starts from."""
    made = Generator(
        classes=CLASSES,
        image_shape=SHAPE,
        condition=recipe.condition,
        matrix=recipe.matrix,
        body=recipe.body,
        width=recipe.width,
        latent=recipe.latent,
        dropout=recipe.rates(),
        generator=torch.Generator().manual_seed(seed_for(task.seed, "generator")),
    )
    return made.to(task.device).to(memory_format=torch.channels_last)


def bare_loop(recipe: Recipe, task: InversionTask, found: list[Tensor]) -> Iterator[None]:
    """Train without the harness; gives way after every step, whose loss it leaves in ``found``."""
    device, model = task.device, task.model
    network, mean, std = model.network, model.mean, model.std
    generator = bare_generator(recipe, task)
    optimiser = torch.optim.Adam(generator.parameters(), lr=recipe.step_size, weight_decay=recipe.weight_decay)
    draws = torch.Generator(device).manual_seed(seed_for(task.seed, "training"))
    own = {"generator": draws, "device": device}
    torch.rand(PROBE, *SHAPE, **own)
    seen: list[Tensor] = []
    (head,) = model._head
    generator.train()
    size = recipe.batch(task)
    others = ~torch.eye(size, dtype=torch.bool, device=device)
    while True:
        latents = torch.randn(size, recipe.latent, **own)
        wanted = torch.randn(size, CLASSES, **own).softmax(1)
        kept = torch.rand(size, sum(generator.dropped), **own)
        labels = wanted.argmax(1)
        hook = head.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        logits = network((generator(latents, wanted, labels, kept) - mean) / std)
        hook.remove()
        rows = F.normalize(seen.pop(), dim=1)
        cosines = rows @ rows.T
        loss = F.kl_div(logits.log_softmax(1), wanted, reduction="batchmean") + F.cross_entropy(logits, labels)
        loss = loss + cosines[others].mean() + (cosines - torch.eye(size, device=device)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.detach())
        yield


class TakeTurns:
    """Stands in for what the subject is shown, and lets the bare loop take a step between two of ours.

    Attributes:
        ours, bare: seconds of each step; ours reaches from one showing to the next.
    """

    def __init__(self, loop: Iterator[None], device: torch.device) -> None:
        self.loop, self.device = loop, device
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.resumed: float | None = None

    def __call__(self, images: Tensor, draws: torch.Generator) -> Tensor:
        held = now(self.device)
        if self.resumed is not None:
            self.ours.append(held - self.resumed)
        next(self.loop)
        self.resumed = now(self.device)
        self.bare.append(self.resumed - held)
        return images


def now(device: torch.device) -> float:
    """The clock, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compare_training(verdict: Verdict, recipe: Recipe, device: torch.device) -> Trained:
    """Both loops side by side; the generator that ours made."""
    task = task_for(device, budget=10**6)
    found: list[Tensor] = []
    both = TakeTurns(bare_loop(recipe, task, found), device)
    made = train_generator(task, recipe, task.labels, Additions(show=both))
    for step, ours in zip(made.history["step"][:WARM_UP], made.history["loss"], strict=False):
        bare = found[int(step) - 1].item()
        if abs(ours - bare) > AGREE * abs(bare):
            raise SystemExit(f"step {step}: a loss of {ours} and a bare one of {bare}: they did other work")
    report(verdict, f"training, {recipe.batch(task)} images a step", both.ours, both.bare, TRAINING_BAR)
    return made


def report(verdict: Verdict, name: str, ours: list[float], bare: list[float], bar: float) -> None:
    """The median ratio of speeds, and both sides' medians."""
    pairs = list(zip(ours, bare, strict=False))[WARM_UP:]
    for who, times in (("ours", ours), ("bare", bare)):
        verdict.only(f"{name}: {who}, median", 1e3 * statistics.median(times[WARM_UP:]), "ms")
    verdict.at_least(f"{name}: speed over bare", statistics.median(slow / mine for mine, slow in pairs), bar, "×")


# ---- sampling ------------------------------------------------------------------------------------------------------


def compare_sampling(verdict: Verdict, made: Trained, turns: int, device: torch.device) -> None:
    """The same batch of images, with the drawing of its numbers and without."""
    whole = task_for(device, budget=0)
    task = whole.replace(places=whole.places[:SAMPLED], labels=whole.labels[:SAMPLED])
    wanted, latents = made.wanted(task, task.labels), task.draws("latent", made.generator.latent)
    kept = task.draws("dropout", sum(made.generator.dropped), law="uniform") if made.recipe.dropout_on else None

    @torch.no_grad()
    def forward() -> Tensor:
        return made.generator(latents, wanted, task.labels, kept)

    if not torch.allclose(made.sample(task, task.labels), forward(), atol=1e-6):
        raise SystemExit("sampling: the bare forward pass made other images")
    sides: dict[str, Callable[[], Tensor]] = {"ours": lambda: made.sample(task, task.labels), "bare": forward}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            started = now(device)
            side()
            times[name].append(now(device) - started)
    name = f"sampling, {SAMPLED} images, dropout {'on' if made.recipe.dropout_on else 'off'}"
    report(verdict, name, times["ours"], times["bare"], SAMPLING_BAR)


# ---- memory --------------------------------------------------------------------------------------------------------

TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine, all pairs": lambda features, labels: losses.cosine_term(features),
    "cosine, same class": lambda features, labels: losses.cosine_term(features, labels=labels, pairs="same_class"),
    "cosine, centred": lambda features, labels: losses.cosine_term(features, centre=True),
    "orthogonality": lambda features, labels: losses.orthogonality_term(features),
    "lookalike": losses.lookalike_term,
    "cosine, absolute": lambda features, labels: losses.cosine_term(features, absolute=True),
}
SIZES = ((512, 256), (1024, 256), (2048, 256), (512, 2048), (1024, 2048), (2048, 2048))  # images, features


def largest_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most that torch had allocated at once for the work, beyond what was there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    held = largest = 0
    for event in sorted(watched.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            largest = max(largest, held)
    return largest


def compare_memory(verdict: Verdict, device: torch.device) -> None:
    """Each term and its gradient at each size, in units of the features' own bytes."""
    for name, term in TERMS.items():
        found = {}
        for count, width in SIZES:
            features = torch.randn(count, width, device=device).requires_grad_()
            labels = torch.arange(count, device=device) % CLASSES
            used = largest_bytes(lambda f=features, y=labels, t=term: torch.autograd.grad(t(f, y), f), device)
            found[count, width] = used / (4 * count * width)
        figures = ", ".join(f"{count} × {width}: {figure:.1f}" for (count, width), figure in found.items())
        if name == "cosine, absolute":
            verdict.only(f"memory, {name} ({figures})", max(found.values()), "× features")
        else:
            verdict.at_most(f"memory, {name} ({figures})", max(found.values()), MEMORY_BAR, "× features")


def main(turns: int = 40) -> int:
    """Measure all of it; 1 when a bar is missed."""
    torch.set_num_threads(THREADS)
    device, verdict = best_device(), Verdict()
    sizes = {"width": 64, "batch_size": 512} if device.type == "cuda" else {"width": 16, "batch_size": 79}
    recipe = Recipe(matrix="auto", dropout="heavy", steps=turns + WARM_UP, **sizes)
    made = compare_training(verdict, recipe, device)
    for dropped in (False, True):
        asked = dataclasses.replace(made, recipe=dataclasses.replace(recipe, dropout_on=dropped))
        compare_sampling(verdict, asked, turns + WARM_UP, device)
    compare_memory(verdict, device)
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
