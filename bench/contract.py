"""What a method gets, what it gives back, and what a metric is: the words that everything else is written in.

Nothing here imports torch when it is loaded, so that names can be listed and checked at once.

Letters for axes: **B** images in one batch, **N** images in a cell, **C, H, W** channels, height, width, **K** classes,
**D** feature channels of a tap. Images are float32 intensities in [0, 1]; the model normalises.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Marked = TypeVar("Marked")


# ---- errors and absences -------------------------------------------------------------------------------------------


class SetupError(Exception):
    """The request is wrong and the user can mend it: shown without a traceback, exit status 2.

    Args:
        message: where, what was expected, what was found.
        hint: what to do, shown on a line of its own.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  {hint}" if hint else message)


class ShapeError(ValueError):
    """A tensor has other axes, another dtype or another range than the boundary it crosses asks for."""


class BudgetExceeded(RuntimeError):
    """A method asked the subject for more passes than its cell may spend; the cell is ``failed``."""


class Diverged(RuntimeError):
    """An optimisation left the finite numbers; the cell is ``diverged``."""


class Unsupported(RuntimeError):
    """Something optional is not here (a library, a weights file); the cell or reading is ``unsupported``."""


class Skip(RuntimeError):
    """A cell cannot be run here for a reason that is no fault (a need that failed, a gate); it is ``skipped``."""


@dataclass(frozen=True)
class Undefined:
    """The only way for a metric to have no value.

    Args:
        reason: one line for the board's reader.
    """

    reason: str


# ---- random numbers ------------------------------------------------------------------------------------------------


def seed_for(*parts: object) -> int:
    """A 63-bit seed that depends on ``parts`` alone: not on order of execution, process or platform."""
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


# ---- the network in a task -----------------------------------------------------------------------------------------


@dataclass
class PassCounter:
    """Image passes through the subject. One pass is one image forward *or* one image backward.

    ``limit`` is the number of passes the cell may spend; None means that nobody counts against a budget.
    """

    forward: int = 0
    backward: int = 0
    limit: int | None = None

    @property
    def total(self) -> int:
        """Forward and backward passes together."""
        return self.forward + self.backward

    def spend(self, *, forward: int = 0, backward: int = 0) -> None:
        """Count passes; raises ``BudgetExceeded`` as soon as the limit is passed."""
        self.forward += forward
        self.backward += backward
        if self.limit is not None and self.total > self.limit:
            raise BudgetExceeded(f"{self.total} passes, the cell's budget is {self.limit}")


@dataclass(frozen=True)
class Observation:
    """What one forward pass showed.

    Args:
        logits: (B, K) float32.
        features: tap name → that tap's tensor, (B, D) or (B, D, H', W') or (B, tokens, D), with its graph.
    """

    logits: Tensor
    features: Mapping[str, Tensor]


class Classifier(Protocol):
    """The wrapped subject (built by ``bench.zoo``): frozen, in eval mode, normalisation inside, passes counted."""

    name: str
    network: nn.Module  # the bare network; its input is a normalised image
    num_classes: int  # 0 when the network has no logits
    image_shape: tuple[int, int, int]  # (C, H, W)
    taps: tuple[str, ...]  # from shallow to deep; the last is "penultimate", the input of the last linear layer
    passes: PassCounter

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32 intensities in [0, 1] → (B, K) logits."""
        ...

    def features(self, images: Tensor, tap: str) -> Tensor:
        """The tap's tensor for each image; layers behind the tap are not computed."""
        ...

    def observe(self, images: Tensor, taps: tuple[str, ...]) -> Observation:
        """Logits and taps from one forward pass."""
        ...

    def normalise(self, images: Tensor) -> Tensor:
        """Intensities → what ``network`` takes."""
        ...

    def checksum(self) -> str:
        """sha256 of all parameters and buffers."""
        ...


# ---- tasks: what a method gets -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """One batch of one cell. Every track's task adds its own fields.

    All random numbers come from ``draws``: they depend on the cell's seed, the image's place in the cell and the
    purpose, so an image never depends on its batch-mates. The global generators are not to be used.
    """

    model: Classifier
    places: Tensor  # (B,) int64, the place of each image in its cell
    seed: int
    budget: int  # passes that one image may cost, forward and backward together, what `fit` spends included
    fitted: Any = None  # what the method's `fit(task)` returned, None when it has none

    def __len__(self) -> int:
        return len(self.places)

    @property
    def device(self) -> torch.device:
        """Where the task's tensors live."""
        return self.places.device

    def draws(self, purpose: str, *shape: int, law: Literal["normal", "uniform", "sign"] = "normal") -> Tensor:
        """(B, *shape) float32 random numbers: standard normal, uniform in [0, 1), or −1 and 1 with equal chance.

        The same ``purpose`` gives the same numbers again; draw what all steps need at once (``task.draws("jitter",
        steps, 2)``), or name the step in the purpose.
        """
        import torch

        rows = []
        for place in self.places.tolist():
            generator = torch.Generator().manual_seed(seed_for(self.seed, purpose, place))
            if law == "normal":
                rows.append(torch.randn(shape, generator=generator))
            else:
                rows.append(torch.rand(shape, generator=generator))
        drawn = torch.stack(rows) if rows else torch.zeros(0, *shape)
        if law == "sign":
            drawn = (drawn < 0.5).float() * 2 - 1
        return drawn.to(self.device)

    def noise(self, purpose: str = "start") -> Tensor:
        """(B, C, H, W) standard normal numbers, one picture an image."""
        return self.draws(purpose, *self.model.image_shape)

    def replace(self, **changes: Any) -> Task:
        """The same task with other fields."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ReconstructionTask(Task):
    """Find the images behind the features."""

    tap: str
    wanted: Tensor  # (B, …) the tap's tensor for the real images
    references: Tensor  # (R, C, H, W) other real images, of the training data, the same for every image of the cell
    reference_labels: Tensor  # (R,) int64
    real: Tensor | None = None  # (B, C, H, W) the images themselves; only for methods marked `reference`


@dataclass(frozen=True, kw_only=True)
class InversionTask(Task):
    """Make many different images that the model gives the wanted label. No data, but for a reference method."""

    labels: Tensor  # (B,) int64 in [0, K)
    real: Tensor | None = None  # (B, C, H, W) real images of those labels; only for methods marked `reference`


@dataclass(frozen=True, kw_only=True)
class VisualizationTask(Task):
    """Show what a neuron stands for: a class logit, or a channel of a tap."""

    kind: Literal["class", "channel"]
    tap: str | None  # None when kind is "class"
    targets: Tensor  # (B,) int64: class index, or channel index within the tap
    references: Tensor  # (R, C, H, W) real training images, the same for every image of the cell
    reference_labels: Tensor  # (R,) int64
    real: Tensor | None = None  # (B, C, H, W) held-out images of those targets; only for methods marked `reference`
    # (what, learn) → what ``learn()`` gave, kept for all cells of this method on this subject and these references.
    # Its passes are counted in each cell, so that a cell costs the same whoever came first.
    remember: Callable[[str, Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]] = lambda what, learn: learn()

    def activation(self, images: Tensor) -> Tensor:
        """(B,) how strongly each image drives its target: the logit, or the channel's mean over positions."""
        if self.kind == "class":
            return self.model(images).gather(1, self.targets[:, None])[:, 0]
        assert self.tap is not None
        features = self.model.features(images, self.tap)
        if features.ndim == 4:
            features = features.mean((2, 3))
        elif features.ndim == 3:  # tokens: (B, tokens, D)
            features = features.mean(1)
        return features.gather(1, self.targets[:, None])[:, 0]


@dataclass(frozen=True)
class Bound:
    """How far a perturbed image may be from the original.

    Args:
        norm: "linf" or "l2", over all pixels of an image; "none" when nothing is asked.
        size: the largest norm allowed, in intensities; infinite for "none".
    """

    norm: Literal["linf", "l2", "none"]
    size: float

    @classmethod
    def parse(cls, text: str) -> Bound:
        """``linf_8_255`` → (linf, 8/255), ``l2_1_2`` → (l2, 0.5), ``none`` → no bound."""
        if text == "none":
            return cls("none", float("inf"))
        match = re.fullmatch(r"(linf|l2)_(\d+)_(\d+)", text)
        if not match or int(match[3]) == 0:
            raise SetupError(
                f"condition {text!r} is not a bound", "write linf_8_255 for 8/255, l2_1_2 for 0.5, or none"
            )
        return cls(match[1], int(match[2]) / int(match[3]))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class AdversarialTask(Task):
    """Change the images, within the bound, so that the model gives another label."""

    images: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,) int64, the true labels
    bound: Bound
    references: Tensor  # (R, C, H, W) real training images, the same for every image of the cell
    reference_labels: Tensor  # (R,) int64


@dataclass(frozen=True, kw_only=True)
class DetectionTask(Task):
    """Tell attacked images from clean ones. ``images`` holds both, in an order that says nothing.

    Each attacked image fools the subject; its clean picture, which the subject gets right, is there too, and so is that
    picture with noise as large as the attack, which counts as not attacked. What is ``known`` is of the same three
    kinds, of other pictures, all of them in equal number; there is none where the attack to learn from never succeeded.
    """

    images: Tensor  # (B, C, H, W)
    clean: Tensor  # (M, C, H, W) clean training images to learn from
    clean_labels: Tensor  # (M,) int64
    known: Tensor  # (J, C, H, W) clean, noisy and attacked pictures to learn from, none of them made of those to judge
    known_attacked: Tensor  # (J,) bool
    known_originals: Tensor  # (J,) int64, equal for the three that stem from one picture
    known_labels: Tensor  # (J,) int64, true labels


@dataclass(frozen=True, kw_only=True)
class AttributionTask(Task):
    """Say which pixels made the model give the label."""

    images: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,) int64, the class to explain


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the protocol fixes about training, whatever the method."""

    epochs: int
    batch_size: int = 128
    warmup_epochs: float = 1.0  # linear warm-up, then a cosine to zero
    ema: float = 0.0  # decay of the running mean of the weights; 0 keeps the last weights
    augment: str = "none"  # see bench.ops.AUGMENTATIONS
    label_smoothing: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"  # of the forward pass; bf16 is autocast


class Checkpoint(Protocol):
    """Where an unfinished training run waits. Written whole or not at all."""

    def load(self) -> dict[str, Any] | None:
        """The last saved state (tensors on the CPU), or None."""
        ...

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep ``state``: a nested dict of tensors, numbers and strings."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """Train the network. It takes float32 intensities in [0, 1], normalises them itself and returns logits."""

    network: nn.Module  # untrained, its start fixed by the seed
    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    num_classes: int
    recipe: Recipe
    seed: int
    device: torch.device
    checkpoint: Checkpoint | None = None
    note: Callable[[str], None] = lambda line: None  # one line for the log

    def replace(self, **changes: Any) -> TrainingTask:
        """The same task with other fields."""
        return dataclasses.replace(self, **changes)


# ---- tracks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """One question: its verb, the task that the verb gets, and the metric its board is sorted by.

    Args:
        verb: name of the method's function: ``verb(task)``.
        task: the dataclass it gets.
        primary: stem of the metric that ranks the board.
        returns: what the verb gives back, for people.
    """

    name: str
    verb: str
    task: type
    primary: str
    returns: str


TRACKS: Mapping[str, Track] = {
    track.name: track
    for track in (
        Track("training", "train", TrainingTask, "top1", "the trained network"),
        Track("reconstruction", "reconstruct", ReconstructionTask, "ssim_gauss11_s15", "(B, C, H, W) images"),
        Track("inversion", "invert", InversionTask, "referee_agreement", "(B, C, H, W) images"),
        Track("visualization", "visualize", VisualizationTask, "frechet_referee_penultimate", "(B, C, H, W) images"),
        Track("adversarial", "attack", AdversarialTask, "success_rate", "(B, C, H, W) images"),
        Track("detection", "score", DetectionTask, "auroc", "(B,) scores, higher is more suspicious"),
        Track("attribution", "explain", AttributionTask, "insertion_auc", "(B, H, W) maps, higher is more important"),
    )
}


# ---- methods -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MethodCard:
    """What a method says of itself. See ``method``."""

    source: str
    differs: str
    version: int
    alone: bool
    reference: bool
    variants: Mapping[str, Mapping[str, Any]]


def method(
    *,
    source: str,
    differs: str = "",
    version: int = 1,
    alone: bool = True,
    reference: bool = False,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[type[Marked]], type[Marked]]:
    """Mark a frozen, keyword-only dataclass of settings as the method of its file.

    The class has its track's verb and may have ``why_not(task) -> str | None`` (the reason to skip: it is asked
    before a run, with a task whose network may be untrained) and ``fit(task)`` (called once a cell with all images
    at once; what it returns is ``task.fitted`` in each batch) and ``describe(task)`` (after the verb, with the same
    batch: a mapping with some of the names in ``DESCRIPTIONS``, for metrics that need to know what was asked for) and
    ``report(task)`` (once, after all batches: a mapping of JSON values that the record keeps as its note ``report``).
    A training method whose network has other modules than the one it got has ``rebuild(network, num_classes) ->
    nn.Module``: an untrained ``TrainingTask.network`` in the shape in which ``train`` returns it, changed in place or
    new, for the trained weights to be loaded into. It looks at the settings and the network alone.

    Args:
        source: paper, section, arXiv number, or where else the method comes from.
        differs: every deliberate difference from the source.
        version: raise it when the method's numbers change on purpose.
        alone: an image alone comes out as it does in a batch (to 1e-5); tested.
        reference: the method shows real images and is ranked only by suites that put metrics to the test.
        variants: name → settings that differ from the defaults; "default" always exists.
    """

    def mark(cls: type[Marked]) -> type[Marked]:
        card = MethodCard(source, differs, version, alone, reference, {"default": {}, **(variants or {})})
        cls.__glassbench__ = card  # type: ignore[attr-defined]
        return cls

    return mark


# ---- metrics -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricCard:
    """What a metric says of itself. See ``metric``."""

    unit: str
    better: Literal["higher", "lower", "neither"]
    per: Literal["image", "class", "set"]
    bounds: tuple[float | None, float | None]
    tracks: tuple[str, ...]
    resample: Literal["image", "class", "none"]
    decimals: int
    version: int
    replicates: int
    partial: bool
    id: str


# Everything that a metric may ask for by the name of a parameter; axis 0 counts images unless said otherwise.
ROLES: Mapping[str, str] = {
    "generated": "(N, C, H, W) float32 in [0, 1]: what the method made",
    "real": "(N, C, H, W) the originals in the same order (reconstruction, adversarial, attribution, training);"
    " (M, C, H, W) reference images (inversion, visualization)",
    "labels": "(N,) int64: the class asked for, or the true label",
    "real_labels": "(M,) int64: labels of the reference images",
    "training": "(M', C, H, W) float32 in [0, 1]: images that the subject was trained on, balanced over the classes, M'"
    " = M where it has seen so many (inversion)",
    "training_labels": "(M',) int64: their labels",
    "target_logits": "(N, K): the subject on what the method made (training: on the test images)",
    "referee_logits": "(N, K): the referee on the same",
    "panel_logits": "(N, J, K): J further networks, the suite's panel, on what the method made",
    "clean_logits": "(N, K): the subject on the originals",
    "clean_referee_logits": "(N, K): the referee on the originals",
    "wanted_features": "(N, …): the subject's tap on the originals",
    "generated_features": "(N, …): the subject's tap on what the method made",
    "target_features": "(N, D): the subject's penultimate layer on what the method made",
    "referee_features": "(N, D): the referee's penultimate layer on what the method made",
    "real_referee_features": "(M, D): the referee's penultimate layer on the images of `real`, in their order",
    "real_target_features": "(M, D): the subject's penultimate layer on the images of `real`, in their order",
    "reference_referee_features": "(R, D): the referee's penultimate layer on the training images that the method could"
    " look at, in their order (visualization)",
    "reference_labels": "(R,) int64: their labels",
    "inception_features": "(N, 2048): the FID Inception's pooled features of what the method made",
    "real_inception_features": "(M, 2048): the same of the images of `real`",
    "dinov2_features": "(N, 768): DINOv2 ViT-B/14's class token on what the method made",
    "real_dinov2_features": "(M, 768): the same of the images of `real`",
    "clip_logits": "(N, K): CLIP's similarity of what the method made with a sentence on each class",
    "wanted_distribution": "(N, K): the probabilities asked for; one-hot at the label unless the method says otherwise",
    "latent_groups": "(N,) int64: images of equal number differ by the method's latent alone, if it says so",
    "target_labels": "(N,) int64: the class the attack aimed at, if it says so; else the wrong class that the subject"
    " favours on what was made (adversarial)",
    "class_subspaces": "class → (r, C·H·W) orthonormal rows, r ≤ 16: where most of the subject's back-projected top"
    " features of that class's training images lie; no axis of images",
    "perturbation_referee_logits": "(N, K): the referee on the perturbation alone, at full contrast on the median"
    " colour of training images (adversarial)",
    "activation": "(N,): how strongly each image drives its target (visualization)",
    "real_activation": "(N,): how strongly real images of `real` drive the same target: their mean logit over those of"
    " the class, the mean over the nine that drive the channel most (visualization)",
    "scores": "(N,): the detector's scores",
    "attacked": "(N,) bool: which images were attacked",
    "noisy": "(N,) bool: which are clean pictures with noise as large as the attack (detection)",
    "maps": "(N, H, W): the attribution maps",
    "randomised_maps": "(N, H, W): the method's maps of the same images for the subject with its weights drawn anew",
    "target": "the subject itself, a function from (B, C, H, W) images to (B, K) logits; no axis of images",
    "lpips_alex": "LPIPS 0.1 with AlexNet, a function of two (B, 3 or 1, H, W) batches to (B,); no axis of images",
    "lpips_vgg": "the same with VGG-16",
    "bound": "the condition's Bound; no axis of images",
    "cost": "what the cell cost, a Mapping of the columns `wall_s`, `forward_passes`, …; no axis of images",
}

# What a method may say of its images besides making them: `describe(task)` returns a mapping with some of these names.
# "transparency" is for pictures alone: (B, H, W) float32 in [0, 1], how much each place of an image matters.
DESCRIPTIONS = ("wanted_distribution", "latent_groups", "target_labels", "transparency")

# Units of numbers that a clock or a memory gauge gave: they differ from run to run and from machine to machine. "×" is
# a ratio of two times that were taken in turns.
TIMED_UNITS = ("ms", "s", "images/s", "MiB", "×")


def metric(
    *,
    unit: str,
    better: Literal["higher", "lower", "neither"],
    per: Literal["image", "class", "set"],
    bounds: tuple[float | None, float | None],
    tracks: tuple[str, ...],
    resample: Literal["image", "class", "none"] | None = None,
    decimals: int = 4,
    version: int = 1,
    replicates: int = 200,
    partial: bool = False,
    id: str = "",
) -> Callable[[Marked], Marked]:
    """Mark a function as the metric of its file.

    Its parameters are role names (``ROLES``) and, with defaults, settings. All are keyword-only, so that what was
    generated and what is real cannot change places. Its docstring says how the number is made, where that comes from
    ("Source:"), and when it misleads ("Beware:").

    Args:
        unit: "fraction", "db", "intensity", "nat", "fid", "auc", …
        better: which way is good; "neither" is shown and never ranked.
        per: what one call measures. "image": all N images at once → (N,) values, NaN where one image has none;
            "class": the images of one class → () value, called once a class; "set": all images → () value.
        bounds: the smallest and largest value possible, None for none.
        tracks: where it means something.
        resample: what is drawn anew for its interval; per "image" → "image", "class" → "class" by default.
        decimals: digits on the wide board.
        version: raise it when the number changes on equal input.
        replicates: how many bootstrap replicates of a "set" metric the harness makes at most. Of large sets it makes
            fewer, or none (``affordable`` in ``bench.execute.measure``); the board says how many.
        partial: images without a value (NaN) are left out of the mean; otherwise one of them makes it undefined.
        id: the name on the boards when the stem does not say it all; ``{referee}`` and ``{panel}`` are filled in.

    Raises:
        TypeError: when marking, a parameter that could be given by position.
    """
    default: dict[str, Literal["image", "class", "none"]] = {"image": "image", "class": "class", "set": "image"}

    def mark(function: Marked) -> Marked:
        for name, parameter in inspect.signature(function).parameters.items():  # type: ignore[arg-type]
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                raise TypeError(f"{function.__name__}: make {name!r} keyword-only: def {function.__name__}(*, …)")  # type: ignore[attr-defined]
        card = MetricCard(
            unit, better, per, bounds, tracks, resample or default[per], decimals, version, replicates, partial, id
        )
        function.__glassbench__ = card  # type: ignore[attr-defined]
        return function

    return mark
