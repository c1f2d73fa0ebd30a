"""How a cell becomes its track's task, batch by batch, and what is kept of the answer."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench import registry
from bench.contract import (
    DESCRIPTIONS,
    TRACKS,
    AdversarialTask,
    AttributionTask,
    Bound,
    Classifier,
    DetectionTask,
    Diverged,
    InversionTask,
    PassCounter,
    Recipe,
    ReconstructionTask,
    SetupError,
    ShapeError,
    Skip,
    Task,
    TrainingTask,
    VisualizationTask,
    seed_for,
)
from bench.execute.checkpoint import FileCheckpoint
from bench.execute.detection import Trials, check_apart, summary, trials
from bench.execute.features import set_digest
from bench.execute.gates import refusal
from bench.execute.lab import Lab, public_start, subject_folder
from bench.execute.paths import path_report
from bench.execute.randomise import drawn_anew
from bench.gating import gated_layers
from bench.ops import check_finite, check_images, in_batches, orthogonality
from bench.plan.cells import Cell, build_untrained
from bench.plan.stubs import channel_count, check_channels
from bench.record import TENSORS, Cost, Store
from bench.zoo import weights

SHARED_BY_ALL_IMAGES = (
    "references",
    "reference_labels",
    "clean",
    "clean_labels",
    "known",
    "known_attacked",
    "known_originals",
    "known_labels",
    "fitted",
)
BOUND_TOLERANCE = 1e-6
COST = "cost"  # of what is remembered: forward and backward passes, seconds


@dataclass
class Made:
    """What a cell's method made, before anything is measured.

    Args:
        artifacts: name → tensor on the CPU; enough, with data and networks, to measure every metric again.
        cost: of the method alone.
        notes: what else is worth a line in the record.
    """

    artifacts: dict[str, Tensor]
    cost: Cost
    notes: dict[str, Any] = field(default_factory=dict)


def make(cell: Cell, lab: Lab, note: Any) -> Made:
    """Run the cell's method.

    Args:
        note: a function that keeps one line of log.

    Raises:
        Skip, Diverged, BudgetExceeded, ShapeError, and whatever the method raises.
    """
    return _train(cell, lab, note) if cell.track == "training" else _look(cell, lab)


def stored_tensors(store: Store, key: str) -> dict[str, Tensor]:
    """What a finished cell's method made, on the CPU.

    Raises:
        KeyError: the cell has no record.
        DamagedRecord: a file of the cell is not as it was written.
    """
    store.read(key, artifacts=True)
    return load_file(store.cell(key) / TENSORS)


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- looking into a subject ----------------------------------------------------------------------------------------


def _look(cell: Cell, lab: Lab) -> Made:
    reason = refusal(cell, lab, cell.subject, cell.subject_key, cell.gate)
    if reason:
        raise Skip(reason)
    model = lab.model(cell, cell.subject, cell.subject_key)
    method = registry.make_method(cell.full_method, cell.variant, cell.settings)
    task, extra = whole_task(cell, lab, model)
    notes = {"split": summary(extra, len(task.known))} if isinstance(task, DetectionTask) else {}
    if not len(task):  # no attack succeeded: nothing is asked of the method, and every reading says why it has no value
        return Made(extra, Stopwatch(lab.device).cost(PassCounter(), 0), notes)
    reason = method.why_not(task) if hasattr(method, "why_not") else None
    if reason:
        raise Skip(reason)
    watch = Stopwatch(lab.device)
    model.passes = counter = PassCounter(limit=cell.passes)
    try:
        with watch:
            task = _fitted(method, task)
            answers = _answers(cell, method, task)
            watch.seconds += getattr(getattr(task, "remember", None), "seconds", 0.0)
            report = dict(method.report(task)) if hasattr(method, "report") else {}
    finally:
        model.passes = PassCounter()
        unchanged = model.checksum() == lab.checksum(cell.subject, cell.subject_key)
        if not unchanged or has_leftovers(model):
            lab.forget(cell.subject, cell.subject_key)
    if not unchanged:
        raise RuntimeError(f"{cell.full_method} changed the subject's parameters or buffers")
    kept = {name: tensor.cpu() for name, tensor in answers.items()} | extra
    made = Made(kept, watch.cost(counter, len(task)), notes)
    if report:
        made.notes["report"] = report
    if cell.track == "attribution":
        _add_randomised_maps(cell, method, task, made)
    return made


def _fitted(method: Any, task: Task) -> Task:
    """The task with what the method learned of the whole cell, where it learns anything."""
    return task.replace(fitted=method.fit(task)) if hasattr(method, "fit") else task


def _answers(cell: Cell, method: Any, task: Task) -> dict[str, Tensor]:
    """What the method makes of all images, batch by batch, and what it says of them if it says anything."""
    verb = getattr(method, TRACKS[cell.track].verb)
    name = {"detection": "scores", "attribution": "maps"}.get(cell.track, "generated")
    parts: list[dict[str, Tensor]] = []
    for batch in batches(task, int(cell.spec["batch_size"])):
        part = {name: _checked(cell, batch, verb(batch))}
        if hasattr(method, "describe"):
            part |= _described(cell, batch, method.describe(batch))
        if parts and part.keys() != parts[0].keys():
            raise ShapeError(f"{cell.full_method}.describe should name the same in every batch, got {sorted(part)}")
        parts.append(part)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _described(cell: Cell, task: Task, said: Any) -> dict[str, Tensor]:
    """What ``describe`` returned, when it is what the contract promises.

    Raises:
        ShapeError: no mapping, an unknown name, or a tensor of another shape, kind or range.
    """
    who, count = f"{cell.full_method}.describe", len(task)
    if not isinstance(said, Mapping) or not said.keys() <= set(DESCRIPTIONS):
        found = sorted(map(str, said)) if isinstance(said, Mapping) else type(said).__name__
        raise ShapeError(f"{who} should return a mapping with names of {', '.join(DESCRIPTIONS)}, got {found}")
    for name, tensor in said.items():
        whole = name in ("latent_groups", "target_labels")
        wanted = (count, *_described_axes(name, task.model))
        right = isinstance(tensor, Tensor) and tuple(tensor.shape) == wanted
        if not right or (tensor.dtype != torch.int64 if whole else not tensor.is_floating_point()):
            kind = "int64" if whole else "floating point"
            found = f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ShapeError(f"{who}: {name} should be {wanted} {kind}, got {found}")
        check_finite(**{f"{who}: {name}": tensor})
        if name == "transparency":
            check_images(**{f"{who}: {name}": tensor[:, None]})
    return {name: tensor.detach() for name, tensor in said.items()}


def _described_axes(name: str, model: Classifier) -> tuple[int, ...]:
    """Axes of a description behind that of the images."""
    return {"wanted_distribution": (model.num_classes,), "transparency": model.image_shape[1:]}.get(name, ())


def _add_randomised_maps(cell: Cell, method: Any, task: Task, made: Made) -> None:
    """Keep the method's maps for the subject with its weights drawn anew, or note why there are none.

    That is a measurement, not the method's work: it has a counter of its own, and no part in cost and budget.
    """
    try:
        blank = drawn_anew(task.model, seed_for("randomised", cell.seed))
        blank.passes = PassCounter(limit=cell.passes)
        task = task.replace(model=blank)
        reason = method.why_not(task) if hasattr(method, "why_not") else None
        if reason:
            raise Skip(reason)
        made.artifacts["randomised_maps"] = _answers(cell, method, _fitted(method, task))["maps"].cpu()
    except (Exception, SystemExit) as problem:  # what a method does on an untrained network is no fault of the cell
        line = (str(problem).strip().split("\n") or [""])[0]
        made.notes["randomised_maps"] = f"on the subject drawn anew: {type(problem).__name__}: {line}"[:200]


def has_leftovers(model: Classifier) -> bool:
    """Whether a method left something on the network that no checksum sees: a hook, a mode, a gradient to fill."""
    modules, parameters = list(model.network.modules()), list(model.network.parameters())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        any(getattr(module, kind) for module in modules for kind in kinds)
        or any(module.training or "forward" in vars(module) for module in modules)
        or any(parameter.requires_grad or parameter.grad is not None for parameter in parameters)
    )


def whole_task(cell: Cell, lab: Lab, model: Classifier) -> tuple[Task, dict[str, Tensor]]:
    """The task over all images of the cell, and what must be kept besides the method's answer."""
    count = cell.images
    places = torch.arange(count)
    common: dict[str, Any] = {
        "model": model,
        "places": places.to(lab.device),
        "seed": seed_for(cell.track, cell.seed),
        "budget": int(cell.spec["budget"]),
    }
    match cell.track:
        case "inversion":
            labels = wanted_labels(cell, lab)
            real = reference_row(cell, lab, labels) if cell.is_reference else None
            return InversionTask(**common, labels=labels, real=real), {}
        case "visualization":
            return _visualization(cell, lab, model, common), {}
        case "detection":
            return _detection(cell, lab, model, common)
    chosen = lab.data(cell).select("test", count)
    images, labels = lab.images(cell, "test", chosen), lab.labels(cell, "test", chosen)
    if cell.track == "reconstruction":
        tap = cell.condition
        with torch.no_grad():
            wanted = in_batches(lambda part: model.features(part, tap), images, int(cell.spec["batch_size"]))
        real = images if cell.is_reference else None
        return ReconstructionTask(**common, **training_images(cell, lab), tap=tap, wanted=wanted, real=real), {}
    if cell.track == "adversarial":
        bound = Bound.parse(cell.condition)
        return AdversarialTask(**common, **training_images(cell, lab), images=images, labels=labels, bound=bound), {}
    return AttributionTask(**common, images=images, labels=labels), {}


def training_images(cell: Cell, lab: Lab) -> dict[str, Any]:
    """The training images that a method of the cell may look at, with their labels; a suite may allow none."""
    if not cell.spec["references"]:  # some data sets have no training part
        none = torch.empty(0, *lab.data(cell).card.image_shape, device=lab.device)
        return {"references": none, "reference_labels": torch.empty(0, dtype=torch.int64, device=lab.device)}
    chosen = lab.data(cell).select("train", int(cell.spec["references"]))
    images, labels = lab.images(cell, "train", chosen), lab.labels(cell, "train", chosen)
    return {"references": images, "reference_labels": labels}


def _visualization(cell: Cell, lab: Lab, model: Classifier, common: dict[str, Any]) -> Task:
    is_class = cell.condition == "class"
    targets = wanted_labels(cell, lab) if is_class else _channels(cell, lab, model)
    return VisualizationTask(
        **common,
        kind="class" if is_class else "channel",
        tap=None if is_class else channel_tap(cell),
        targets=targets,
        **training_images(cell, lab),
        real=reference_row(cell, lab, targets if is_class else None) if cell.is_reference else None,
        remember=_Memory(cell, lab, model),
    )


class _Memory:
    """``VisualizationTask.remember``: files beside the features of real images, by all that could change them.

    Args:
        seconds: that it took to learn what was recalled; they belong to the cell as its passes do.
    """

    def __init__(self, cell: Cell, lab: Lab, model: Classifier) -> None:
        chosen = lab.data(cell).select("train", int(cell.spec["references"]))
        ends = [model.normalise(torch.full((1, *model.image_shape), end, device=lab.device)) for end in (0.0, 1.0)]
        self.conditions = set_digest(
            lab.real_digest(cell, "train", chosen),
            *(cell.spec[name] for name in ("source", "threads", "precision")),
            repr(model.network),
            *(end[..., 0, 0].tolist() for end in ends),
        )
        self.network = lab.checksum(cell.subject, cell.subject_key)
        self.lab, self.model, self.seconds = lab, model, 0.0

    def __call__(self, what: str, learn: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """What ``learn`` gives, or gave to another cell; its cost is this cell's in any case."""
        passes, is_new = self.model.passes, False

        def counted() -> dict[str, Tensor]:
            nonlocal is_new
            is_new, before, watch = True, dataclasses.replace(passes), Stopwatch(self.lab.device, inner=True)
            with watch:
                learned = dict(learn())
            cost = (passes.forward - before.forward, passes.backward - before.backward, watch.seconds)
            return learned | {COST: torch.tensor(cost, dtype=torch.float64)}

        known = self.lab.features.get(set_digest(self.conditions, what), self.network, counted, lasting=True)
        if not is_new:
            forward, backward, seconds = known[COST].tolist()
            passes.spend(forward=int(forward), backward=int(backward))
            self.seconds += seconds
        return {name: tensor for name, tensor in known.items() if name != COST}


def channel_tap(cell: Cell) -> str:
    """The tap of a condition "channel_TAP"."""
    return cell.condition.removeprefix("channel_")


def _channels(cell: Cell, lab: Lab, model: Classifier) -> Tensor:
    """(N,) channels of the tap, in turn: those asked for, or all."""
    asked = cell.spec["targets"] or list(range(channel_count(model, channel_tap(cell))))
    check_channels(model, channel_tap(cell), asked)
    return _in_turn(asked, cell.images).to(lab.device)


def wanted_labels(cell: Cell, lab: Lab) -> Tensor:
    """(N,) classes asked for, in turn: the suite's targets, or all classes."""
    asked = cell.spec["targets"] or list(range(lab.data(cell).card.num_classes))
    return _in_turn(asked, cell.images).to(lab.device)


def _in_turn(values: list[int], count: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64).repeat(-(-count // len(values)))[:count]


def reference_places(cell: Cell, lab: Lab) -> Tensor:
    """Places in the test split of the real images that metrics compare with.

    Raises:
        SetupError: the suite asks for more than there are.
    """
    return lab.data(cell).select("test", cell.real_images)


def reference_row(cell: Cell, lab: Lab, labels: Tensor | None) -> Tensor:
    """(N, C, H, W) real test images of those labels (of any, when None) that no metric compares with.

    Raises:
        SetupError: too few test images are left over.
    """
    data = lab.data(cell)
    every = data.labels("test")
    left = data.select("test", len(every))[cell.real_images :]
    if labels is None:
        chosen = left[: cell.images]
    else:
        by_class = {int(c): iter(left[every[left] == c].tolist()) for c in labels.unique().tolist()}
        chosen = torch.tensor([next(by_class[c], -1) for c in labels.tolist()])
    if len(chosen) < cell.images or (chosen < 0).any():
        raise SetupError(
            f"{cell.full_method}: {cell.images} real images beside the {cell.real_images} that judge are not there",
            f"lower images or real_images; {cell.dataset} has {len(every)} test images",
        )
    return lab.images(cell, "test", chosen)


def _detection(
    cell: Cell, lab: Lab, model: Classifier, common: dict[str, Any]
) -> tuple[DetectionTask, dict[str, Tensor]]:
    """Pictures of the second half that the attack succeeded on, shuffled, and those of the first half to learn from."""
    assert cell.attack_key is not None and cell.known_attack_key is not None
    faced, learned = (stored_tensors(lab.store, key)["generated"] for key in (cell.attack_key, cell.known_attack_key))
    half = len(faced) // 2
    judged, right = _trials(cell, lab, model, faced[half:], first=half)
    known, _ = _trials(cell, lab, model, learned[:half], first=0)
    check_apart(known.originals, judged.originals)
    count = len(judged.images)
    judged = judged[torch.randperm(count, generator=torch.Generator().manual_seed(seed_for("mix", count)))]
    training = training_images(cell, lab)
    task = DetectionTask(
        **common | {"places": torch.arange(count, device=lab.device)},
        images=judged.images,
        clean=training["references"],
        clean_labels=training["reference_labels"],
        known=known.images,
        known_attacked=known.attacked,
        known_originals=known.originals,
        known_labels=known.labels,
    )
    kept = {"right": right, "originals": judged.originals}
    if count:
        kept |= {"attacked": judged.attacked, "noisy": judged.noisy}
    return task, {name: tensor.cpu() for name, tensor in kept.items()}


def _trials(cell: Cell, lab: Lab, model: Classifier, attacked: Tensor, *, first: int) -> tuple[Trials, Tensor]:
    """What an attack made of the pictures that the subject had right and now has wrong.

    Telling them apart is the harness's work: its passes are nobody's cost.

    Args:
        attacked: (G, C, H, W) what the attack made of the test pictures from number ``first`` on.

    Returns:
        The trials, and (G,) bool which pictures the subject has right.
    """
    attacked = attacked.to(lab.device)
    if not len(attacked):
        empty = torch.zeros(0, dtype=torch.int64, device=lab.device)
        return trials(attacked, attacked, labels=empty, originals=empty, seed=0), empty.bool()
    places = lab.data(cell).select("test", first + len(attacked))[first:]
    clean, labels = lab.images(cell, "test", places), lab.labels(cell, "test", places)
    right = lab.logits(model, clean).argmax(1) == labels
    fooled = right & (lab.logits(model, attacked).argmax(1) != labels)
    made = trials(
        clean[fooled],
        attacked[fooled],
        labels=labels[fooled],
        originals=places.to(lab.device)[fooled],
        seed=seed_for(cell.track, cell.seed),
    )
    return made, right


def batches(task: Task, size: int) -> Iterator[Task]:
    """The task in parts of at most ``size`` images; what all images share stays whole."""
    each = [
        item.name
        for item in fields(task)
        if isinstance(getattr(task, item.name), Tensor) and item.name not in SHARED_BY_ALL_IMAGES
    ]
    for first in range(0, len(task), size):
        yield task.replace(**{name: getattr(task, name)[first : first + size] for name in each})


def _checked(cell: Cell, task: Any, answer: Any) -> Tensor:
    """The answer, when it is what the track promises.

    Raises:
        ShapeError: wrong type, shape, dtype, range, or further from the original than the bound allows.
        Diverged: not finite.
    """
    who = cell.full_method
    if not isinstance(answer, Tensor):
        raise ShapeError(f"{who} should return a tensor, got {type(answer).__name__}")
    shape = task.model.image_shape
    wanted = {"detection": (len(task),), "attribution": (len(task), *shape[1:])}.get(cell.track, (len(task), *shape))
    if tuple(answer.shape) != wanted or answer.dtype != torch.float32:
        raise ShapeError(f"{who} should return {wanted} float32, got {tuple(answer.shape)} {answer.dtype}")
    if not answer.isfinite().all():
        raise Diverged(f"{who} returned {int((~answer.isfinite()).sum())} values that are not finite")
    if len(wanted) == 4:
        check_images(**{who: answer})
    if isinstance(task, AdversarialTask) and task.bound.norm != "none":
        order = float("inf") if task.bound.norm == "linf" else 2
        size = torch.linalg.vector_norm((answer - task.images).flatten(1).double(), ord=order, dim=1).max().item()
        if size > task.bound.size + BOUND_TOLERANCE:
            raise ShapeError(f"{who} went {size:.6f} away, the bound {cell.condition} is {task.bound.size:.6f}")
    return answer.detach()


class Stopwatch:
    """Seconds and memory of what happens inside ``with``; on a GPU the queue is waited for at both ends.

    Args:
        inner: inside another one, whose peak of memory goes on.
    """

    def __init__(self, device: torch.device, *, inner: bool = False) -> None:
        self.device, self.inner, self.seconds = device, inner, 0.0

    def __enter__(self) -> "Stopwatch":
        if self.device.type == "cuda":
            if not self.inner:
                torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda" and error[0] is None:
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - self._start

    def cost(self, passes: PassCounter, images: int) -> Cost:
        """What the record says of it."""
        on_gpu = self.device.type == "cuda"
        return Cost(
            wall_s=self.seconds,
            gpu_s=self.seconds if on_gpu else None,
            gpu_peak_mib=torch.cuda.max_memory_allocated(self.device) / 2**20 if on_gpu else None,
            forward_passes=passes.forward,
            backward_passes=passes.backward,
            n_images=images,
        )


# ---- training ------------------------------------------------------------------------------------------------------


def _train(cell: Cell, lab: Lab, note: Any) -> Made:
    """Train the network, keep its weights for all who need them, and its logits on the test images."""
    data = lab.data(cell)
    recipe: Mapping[str, Any] = cell.spec["recipe"]
    folder = subject_folder(lab.store, cell.key)
    folder.mkdir(parents=True, exist_ok=True)
    for left in (*folder.glob(".weights.*"), *folder.glob("*.tmp")):  # by a process killed while it wrote
        left.unlink()
    checkpoint = FileCheckpoint(folder / f"unfinished{_start_digest(cell, lab)}.safetensors")
    chosen = data.select("train", int(cell.spec["training_images"])).sort().values
    task = TrainingTask(
        network=_start(cell, lab),
        images=data.images("train", chosen),
        labels=data.labels("train")[chosen],
        num_classes=data.card.num_classes,
        recipe=Recipe(**recipe),
        seed=seed_for(cell.track, cell.seed),
        device=lab.device,
        checkpoint=checkpoint,
        note=note,
    )
    method = registry.make_method(cell.full_method, cell.variant, cell.settings)
    watch = Stopwatch(lab.device)
    with watch:
        network = method.train(task).eval()
    watch.seconds += checkpoint.seconds_before
    weights.save_weights(network, folder / "weights.safetensors")
    lab.forget(cell.subject, cell.key)  # the one that an earlier run of this cell made
    checkpoint.remove()
    everything = torch.arange(len(data.labels("test")))
    with torch.no_grad():
        logits = torch.cat([network(lab.images(cell, "test", part)) for part in everything.split(256)])
    if not logits.isfinite().all():
        raise Diverged("the trained network's logits are not finite")
    seen = recipe["epochs"] * (len(chosen) // recipe["batch_size"]) * recipe["batch_size"]
    counted = PassCounter(forward=seen, backward=seen)
    parameters = sum(p.numel() for p in network.parameters())
    made = Made(
        {"target_logits": logits.cpu()},
        watch.cost(counted, seen),
        {
            "weights_sha256": file_digest(folder / "weights.safetensors"),
            "parameters": parameters,
            "orthogonality": {name: layer._asdict() for name, layer in orthogonality(network).items()},
        },
    )
    if gated_layers(network):
        made.notes |= _paths(cell, lab, network)
    return made


def _paths(cell: Cell, lab: Lab, network: Any) -> dict[str, Any]:
    """What the paths of a network with gates show, or why that is not known; a measurement, no part of the cost."""
    watch = Stopwatch(lab.device, inner=True)
    try:
        with watch:
            found: dict[str, Any] = {"paths": path_report(cell, lab, network)}
    except Exception as problem:  # the network is trained: it is kept, whatever cannot be said of it
        line = (str(problem).strip().split("\n") or [""])[0]
        found = {"paths_error": f"{type(problem).__name__}: {line}"[:200]}
    return found | {"paths_s": watch.seconds}


def _start(cell: Cell, lab: Lab) -> torch.nn.Module:
    """The network that training starts from: as another training left it, with public weights, or drawn by the seed."""
    if cell.start_key is not None:
        started: torch.nn.Module = lab.trained(cell, cell.start_key)
        return started
    card = lab.data(cell).card
    network = build_untrained(cell.subject, card, seed=seed_for("start", cell.seed))
    if (name := public_start(cell.spec)) is not None:
        weights.start_from_public(network, name, card.image_shape, lab.root)
    return network  # type: ignore[no-any-return]


def _start_digest(cell: Cell, lab: Lab) -> str:
    """Tells the weights that training starts from: a run that began with others is not continued."""
    if cell.start_key is None:
        return ""
    return str(lab.store.read(cell.start_key).provenance.get("weights_sha256", ""))[:16]
