"""Train one generator against a frozen subject, then ask it for images."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.conditioned_generator import losses
from bench.conditioned_generator.conditions import class_map, default_temperature, first_argmax, soft_vectors
from bench.conditioned_generator.network import Body, Condition, Generator, Matrix, chain_for, fitting_matrix
from bench.contract import BudgetExceeded, Classifier, Diverged, SetupError, Task, seed_for
from bench.ops import finite, step_factor, total_variation

DROPOUT = {"none": (0.0, 0.0), "light": (0.0, 0.1), "heavy": (0.5, 0.5)}  # early and late stages [our choice]
PROBE = 8  # images that show whether the subject fits, before the first step
SUM_TOLERANCE = 1e-4  # of a row of probabilities
BATCH, STEPS = 512, 500  # images of a step, and the steps that come before larger batches [our choice]
LOOK_EVERY = 50  # steps between two looks at whether the loss is finite: each look waits for the device
DEAD_SHARE = 0.01  # of feature rows without length, above which the user is warned
KEPT = 50  # rows of the training's history that a record keeps


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a generator and its training are made of; spec sections 3 to 5.

    L = α KL + β CE + γ cosine + δ orthogonality, and what the lines below add.
    """

    # what the generator is told
    condition: Condition = "soft"  # label embedding, soft vector, one-hot vector, or nothing besides the latent
    matrix: Matrix = "none"  # "square" is N×N, "cross" the factored one, "auto" the square one where it fits
    temperature: float | None = None  # τ of soft vectors; 1 up to 20 classes and 0.25 above when left out
    latent: int = 100  # numbers of z [group code]
    num_classes: int | None = None  # N; all of the subject's when left out
    class_map: list[int] = field(default_factory=list)  # the subject's class of each conditioned one, needed when N < K
    # what it is
    body: Body = "transposed"  # transposed convolutions, or "resize": enlarge, then convolve
    width: int = 16  # channels of its first stage (ngf); 64 in group code, 16 is what two CPU cores can train
    dropout: str = "heavy"  # "none", "light": 0.1 in late stages, "heavy": 0.5 in all [our choice]
    dropout_rate: float | None = None  # another rate, in the stages that the preset names
    dropout_on: bool = False  # at sampling too
    # what it is trained for
    kl: float = 1.0  # α
    cross_entropy: float = 1.0  # β
    cosine: float = 1.0  # γ
    orthogonality: float = 1.0  # δ
    pairs: Literal["all", "same_class"] = "all"  # of the cosine term
    centre: bool = False  # features of cosine and orthogonality around the batch mean
    absolute: bool = False  # cosines without their sign, as one version of group code has them
    raw_gram: bool = False  # orthogonality of features as they are, for comparison only
    perturbed_kl: float = 0.0  # α' of arXiv:2410.16884, on images with noise
    perturbed_cross_entropy: float = 0.0  # β'
    perturbation: float = 0.1  # size of that noise, of random sign, in intensities [our choice]
    smoothness: float = 0.0  # η1: total variation over the number of pixels
    gradient_norm: float = 0.0  # η3: of the cross-entropy's gradient by the subject's parameters
    lookalike: float = 0.0  # λ: pulls images of different classes together [our choice]
    tap: str = "penultimate"  # whose features cosine and orthogonality see
    outputs: Literal["logits", "probs"] = "logits"  # what the subject returns
    # how
    step_size: float = 5e-4  # Adam's [group code]
    weight_decay: float = 1e-6  # [group code]
    batch_size: int | None = None  # when left out 512, or fewer, so that 500 steps of two passes an image are paid for
    steps: int = 0  # 0: as many as the budget pays for
    schedule: Literal["constant", "cosine"] = "constant"  # of the step size
    first_moment: float = 0.9  # Adam's β₁
    balanced: bool = False  # classes in turn in each batch, instead of at random as the vector's law has them

    def classes(self, outputs: int) -> tuple[int, ...]:
        """The subject's class of each conditioned one."""
        return class_map(outputs if self.num_classes is None else self.num_classes, outputs, self.class_map)

    def rates(self) -> tuple[float, float]:
        """Dropout of early and late stages."""
        early, late = DROPOUT[self.dropout]
        if self.dropout_rate is None:
            return early, late
        return (self.dropout_rate if early else 0.0), (self.dropout_rate if late else 0.0)

    def check(self, model: Classifier) -> None:
        """Whether all settings fit each other and the subject.

        Raises:
            SetupError: naming the setting, its value and the limit.
        """
        for name, allowed in {
            "condition": ("label", "soft", "one_hot", "none"),
            "matrix": ("none", "auto", "square", "cross"),
            "body": ("transposed", "resize"),
            "dropout": tuple(DROPOUT),
            "pairs": ("all", "same_class"),
            "outputs": ("logits", "probs"),
            "schedule": ("constant", "cosine"),
        }.items():
            if getattr(self, name) not in allowed:
                raise SetupError(f"{name} is {getattr(self, name)!r}", f"one of {', '.join(allowed)}")
        conditioned = len(self.classes(model.num_classes))
        if self.condition == "none" and self.matrix == "none":
            raise SetupError("condition and matrix are both none", "the generator must be told the class somehow")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise SetupError(f"temperature is {self.temperature}", "it has to be above 0 and finite")
        if self.dropout_rate is not None and not 0 <= self.dropout_rate < 1:
            raise SetupError(f"dropout_rate is {self.dropout_rate}", "it has to be in [0, 1)")
        if self.dropout_rate and self.dropout == "none":
            raise SetupError(
                f"dropout_rate is {self.dropout_rate} and dropout none", "dropout=heavy drops in all stages"
            )
        if self.batch_size is not None and self.batch_size < 2:
            raise SetupError(f"batch_size is {self.batch_size}", "pairs need at least 2 images")
        weights = {name: getattr(self, name) for name in WEIGHTS}
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise SetupError(f"{name} is {weight}", "weights are finite and not negative")
        if not any(weights.values()):
            raise SetupError("all weights are 0", f"some of {', '.join(WEIGHTS)} has to be above 0")
        for name, least in {"latent": 1, "width": 1, "steps": 0}.items():
            if getattr(self, name) < least:
                raise SetupError(f"{name} is {getattr(self, name)}", f"at least {least}")
        if not 0 <= self.first_moment < 1:
            raise SetupError(f"first_moment is {self.first_moment}", "it has to be in [0, 1)")
        if self.balanced and self.condition == "soft":
            raise SetupError("balanced batches of soft vectors", "their law decides the classes; leave balanced out")
        if not self.step_size > 0:
            raise SetupError(f"step_size is {self.step_size}", "it has to be above 0")
        if self.tap not in model.taps:
            raise SetupError(f"{model.name} has no tap {self.tap!r}", f"it has: {', '.join(model.taps)}")
        chain_for(model.image_shape)
        fitting_matrix(self.matrix, conditioned, model.image_shape)

    def batch(self, task: Task) -> int:
        """Images of one step; where the recipe leaves it open at least two a class, at most 512 [our choice]."""
        if self.batch_size is not None:
            return self.batch_size
        affordable = (task.budget * len(task) - PROBE) // (2 * STEPS)
        return min(max(affordable, 2 * len(self.classes(task.model.num_classes))), BATCH)

    def passes_per_image(self) -> int:
        """What an image of a step costs: forward and backward, again under noise, three for the gradient's norm."""
        return 2 + 2 * bool(self.perturbed_kl or self.perturbed_cross_entropy) + 3 * bool(self.gradient_norm)

    def too_dear(self, task: Task) -> str | None:
        """Why the budget does not pay for one step, or None."""
        needed, allowed = PROBE + self.passes_per_image() * self.batch(task), task.budget * len(task)
        return f"needs {needed} passes for a first step, the cell has {allowed}" if needed > allowed else None


WEIGHTS = (
    "kl",
    "cross_entropy",
    "cosine",
    "orthogonality",
    "perturbed_kl",
    "perturbed_cross_entropy",
    "smoothness",
    "gradient_norm",
    "lookalike",
)


@dataclass(frozen=True, kw_only=True)
class Additions:
    """What a method adds to the published training; nothing by default.

    Args:
        picture: (images, latents) → images, a last stage of the generator, at sampling too.
        own_latents: numbers at the end of z that ``picture`` alone gets.
        show: (images, generator of random numbers) → what the subject sees of them in training.
        terms: (images, labels, tap's features) → name → () further terms of the loss, their weights included. Called
            after the subject has seen the images that ``show`` made.
    """

    picture: Callable[[Tensor, Tensor], Tensor] = lambda images, latents: images
    own_latents: int = 0
    show: Callable[[Tensor, torch.Generator], Tensor] = lambda images, draws: images
    terms: Callable[[Tensor, Tensor, Tensor], Mapping[str, Tensor]] = lambda images, labels, features: {}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A generator after its training.

    Args:
        generator: in eval mode, so that an image depends on its own numbers alone.
        recipe: that it was made by.
        classes: (N,) int64 the subject's class of each conditioned one.
        outputs: K.
        leaders: place → the place whose soft vector it shares (see ``sample``).
        additions: what the method added.
        history: term → its value at some of the steps; terms of ``additions`` with their weights, others without.
        counts: what was counted: steps, images of a step and its passes, rows without length, steps without a
            same-class pair.
    """

    generator: Generator
    recipe: Recipe
    classes: Tensor
    outputs: int
    leaders: Mapping[int, int]
    additions: Additions
    history: Mapping[str, list[float]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def sample(self, task: Task, labels: Tensor) -> Tensor:
        """(B, C, H, W) float32 intensities in [0, 1], image b of class ``labels[b]`` from the numbers of its place.

        Two images of a class, in the order of their places, share a soft vector and differ by the latent alone, so
        that the share of diversity that comes from the latent can be measured.
        """
        distributions, places = self._distributions(task, labels)
        latents = task.draws("latent", self.generator.latent + self.additions.own_latents)
        kept = task.draws("dropout", sum(self.generator.dropped), law="uniform") if self.recipe.dropout_on else None
        with torch.no_grad():
            plain = self.generator(latents[:, : self.generator.latent], distributions, places, kept)
            return finite(self.additions.picture(plain, latents))

    def wanted(self, task: Task, labels: Tensor) -> Tensor:
        """(B, K) the probabilities asked for: the soft vector where there is one, else one-hot at the label."""
        return padded(self._distributions(task, labels)[0], self.classes, self.outputs)

    def groups(self, task: Task, labels: Tensor) -> Tensor:
        """(B,) int64: images of equal number were made for one and the same condition."""
        return self._leaders(task) if self.recipe.condition == "soft" else labels

    def _leaders(self, task: Task) -> Tensor:
        return torch.tensor([self.leaders.get(place, place) for place in task.places.tolist()], device=task.device)

    def _distributions(self, task: Task, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) distributions, and (B,) places of the labels among the conditioned classes."""
        places = places_of(labels, self.classes)
        if self.recipe.condition != "soft":
            return F.one_hot(places, len(self.classes)).float(), places
        normals = task.replace(places=self._leaders(task)).draws("condition", len(self.classes))
        return soft_vectors(normals, temperature_of(self.recipe, len(self.classes)), places), places


def train_generator(task: Task, recipe: Recipe, labels: Tensor, additions: Additions | None = None) -> Trained:
    """One generator for all images of the cell, trained on nothing but the subject's answers.

    The weights come from a generator of random numbers on the CPU, all else from one on the task's device, both seeded
    by the task. Spends as many passes as the cell has, or fewer when the recipe says how many steps.

    Args:
        task: the whole cell.
        labels: (B,) int64, the classes that will be asked for.
        additions: what the method adds.

    Raises:
        SetupError: settings that do not fit, a label that is not conditioned, or a subject whose answers are no logits;
            before the first step.
        BudgetExceeded: the budget does not pay for the first step.
        Diverged: the loss is not finite.
    """
    model, device = task.model, task.device
    recipe.check(model)
    classes = torch.tensor(recipe.classes(model.num_classes), device=device)
    places_of(labels, classes)
    if recipe.batch(task) < 2 * len(classes):
        warnings.warn(
            f"batches of {recipe.batch(task)} images: two of each of {len(classes)} classes are {2 * len(classes)}",
            stacklevel=2,
        )
    weights = torch.Generator().manual_seed(seed_for(task.seed, "generator"))
    generator = Generator(
        classes=len(classes),
        image_shape=model.image_shape,
        condition=recipe.condition,
        matrix=recipe.matrix,
        body=recipe.body,
        width=recipe.width,
        latent=recipe.latent,
        dropout=recipe.rates(),
        generator=weights,
    ).to(device)
    generator.to(memory_format=torch.channels_last)  # its kernels are faster
    draws = torch.Generator(device).manual_seed(seed_for(task.seed, "training"))
    additions = additions or Additions()
    run = _Run(task, recipe, generator, classes, draws, additions)
    run.probe()
    run.train()
    return Trained(
        generator=generator.requires_grad_(False).eval(),
        recipe=recipe,
        classes=classes,
        outputs=model.num_classes,
        leaders=_leaders(task, labels),
        additions=additions,
        history=run.history(),
        counts=run.counts(),
    )


class _Run:
    """One training: the loop, and what it notes."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        generator: Generator,
        classes: Tensor,
        draws: torch.Generator,
        additions: Additions,
    ) -> None:
        self.task, self.recipe, self.generator, self.classes, self.draws = task, recipe, generator, classes, draws
        self.additions = additions
        self.batch_size = recipe.batch(task)
        self.noted: list[dict[str, Tensor]] = []
        self.looked = 0  # rows of it that were looked at
        self.dead = torch.zeros((), dtype=torch.int64, device=task.device)
        self.without_pair = torch.zeros((), dtype=torch.int64, device=task.device)

    def probe(self) -> None:
        """Show the subject a few images: its answers have to be what the terms are made for.

        Raises:
            SetupError: it takes other images, or answers with another shape, with numbers that are not finite, or with
                probabilities where logits are expected.
        """
        model = self.task.model
        shape = (PROBE, *model.image_shape)
        images = torch.rand(shape, generator=self.draws, device=self.task.device)
        try:
            with torch.no_grad():
                outputs = model.observe(images, (self.recipe.tap,)).logits
        except (BudgetExceeded, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, AssertionError) as problem:  # the ways in which layers refuse a shape
            reason = str(problem).strip().split("\n")[0]
            raise SetupError(
                f"{model.name} cannot take images of {model.image_shape}: {reason}", "give it the shape it was made for"
            ) from problem
        check_answers(outputs, model.num_classes, self.recipe.outputs, model.name)

    def train(self) -> None:
        """Adam until the steps are done or the budget pays for no further one."""
        recipe, task = self.recipe, self.task
        parameters = list(self.generator.parameters())
        betas, decay = (recipe.first_moment, 0.999), recipe.weight_decay
        optimiser = torch.optim.Adam(parameters, lr=recipe.step_size, betas=betas, weight_decay=decay)
        passes, allowed = task.model.passes, task.budget * len(task) - PROBE
        self.steps, steps = 0, recipe.steps or 1
        with _differentiable(task.model, bool(recipe.gradient_norm)):
            start = passes.total
            while self.steps < steps:
                if recipe.schedule == "cosine":
                    optimiser.param_groups[0]["lr"] = recipe.step_size * step_factor(self.steps, steps, 0)
                total = self._step()
                for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                    parameter.grad = gradient
                optimiser.step()
                self.steps += 1
                if self.steps == 1:
                    self.cost = passes.total - start
                    steps = min(recipe.steps or sys.maxsize, allowed // self.cost)
                if self.steps % LOOK_EVERY == 0 or self.steps == steps:
                    self._look()

    def _step(self) -> Tensor:
        """() the loss of one fresh batch."""
        recipe, model = self.recipe, self.task.model
        if model.network.training:
            raise RuntimeError("the subject left evaluation mode")
        wanted, places, latents, kept = self._batch()
        labels = self.classes[places]
        target = padded(wanted, self.classes, model.num_classes)
        plain = self.generator.train()(latents[:, : recipe.latent], wanted, places, kept)
        images = self.additions.picture(plain, latents)
        seen = model.observe(self.additions.show(images, self.draws), (recipe.tap,))
        features = seen.features[recipe.tap].flatten(1)
        log_probs = losses.log_probabilities(seen.logits, recipe.outputs)
        terms = {
            "kl": losses.kl_term(target, log_probs),
            "cross_entropy": losses.cross_entropy_term(log_probs, labels),
            "cosine": losses.cosine_term(
                features, labels=labels, pairs=recipe.pairs, centre=recipe.centre, absolute=recipe.absolute
            ),
            "orthogonality": losses.orthogonality_term(
                losses.unit_rows(features, centre=recipe.centre) if not recipe.raw_gram else features, normalise=False
            ),
        } | self._further(images, target, labels, log_probs)
        added = self.additions.terms(images, labels, features)
        weighted = [getattr(recipe, name) * term for name, term in terms.items()]
        total = torch.stack([*weighted, *added.values()]).sum()
        terms |= added
        self._note(total, terms, log_probs, features, labels)
        return total

    def _further(self, images: Tensor, target: Tensor, labels: Tensor, log_probs: Tensor) -> dict[str, Tensor]:
        """The terms that most recipes do without: made only where they weigh something."""
        recipe, model = self.recipe, self.task.model
        found: dict[str, Tensor] = {}
        if recipe.perturbed_kl or recipe.perturbed_cross_entropy:
            signs = torch.rand(images.shape, generator=self.draws, device=images.device).sub(0.5).sign()
            noisy = model((images + recipe.perturbation * signs).clamp(0.0, 1.0))
            under_noise = losses.log_probabilities(noisy, recipe.outputs)
            found["perturbed_kl"] = losses.kl_term(target, under_noise)
            found["perturbed_cross_entropy"] = losses.cross_entropy_term(under_noise, labels)
        if recipe.smoothness:
            found["smoothness"] = total_variation(images).mean() / images[0].numel()
        if recipe.gradient_norm:
            loss = losses.cross_entropy_term(log_probs, labels)
            found["gradient_norm"] = losses.gradient_norm_term(loss, model.network.parameters())
            # the second derivative walks the subject once more each way, past the wrapper that counts
            model.passes.spend(forward=len(images), backward=len(images))
        if recipe.lookalike:
            found["lookalike"] = losses.lookalike_term(images, labels)
        return found

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(B, N) distributions, (B,) class places, (B, latent) latents, (B, channels) dropout numbers."""
        recipe, size, count = self.recipe, self.batch_size, len(self.classes)
        own: dict[str, Any] = {"generator": self.draws, "device": self.task.device}
        latents = torch.randn(size, recipe.latent + self.additions.own_latents, **own)
        if recipe.condition == "soft":
            wanted = soft_vectors(torch.randn(size, count, **own), temperature_of(recipe, count))
            places = first_argmax(wanted)
        else:
            every = torch.arange(size, device=self.task.device) % count
            places = every if recipe.balanced else torch.randint(count, (size,), **own)
            wanted = F.one_hot(places, count).float()
        kept = torch.rand(size, sum(self.generator.dropped), **own) if any(recipe.rates()) else None
        return wanted, places, latents, kept

    @torch.no_grad()
    def _note(
        self, total: Tensor, terms: Mapping[str, Tensor], log_probs: Tensor, features: Tensor, labels: Tensor
    ) -> None:
        """Keep what the step showed, on the device: nothing waits for it."""
        own = log_probs.gather(1, labels[:, None])[:, 0]
        self.noted.append(
            {"loss": total.detach(), **{name: term.detach() for name, term in terms.items()}}
            | {
                "inversion_accuracy": (first_argmax(log_probs) == labels).float().mean(),
                "mean_confidence": own.exp().mean(),
                "same_class_cosine": losses.cosine_term(features, labels=labels, pairs="same_class"),
            }
        )
        self.dead += losses.dead_rows(features)
        ordered = labels.sort().values
        self.without_pair += (ordered[1:] != ordered[:-1]).all().long()

    def _look(self) -> None:
        """Whether all losses since the last look were finite: the only wait for the device.

        Raises:
            Diverged: naming the first step without a finite loss, and its terms.
        """
        fresh = torch.stack([row["loss"] for row in self.noted[self.looked :]])
        lost = (~fresh.isfinite()).nonzero()
        if len(lost):
            step = self.looked + int(lost[0])
            loss, *terms = (f"{name} {float(value):.3g}" for name, value in self.noted[step].items())
            raise Diverged(f"the {loss} at step {step + 1}: {', '.join(terms)}")
        self.looked = len(self.noted)

    def history(self) -> dict[str, list[float]]:
        """Term → value at up to ``KEPT`` steps, spread evenly; "step" says which."""
        chosen = sorted({round(place) for place in torch.linspace(0, self.steps - 1, min(KEPT, self.steps)).tolist()})
        rows = {name: torch.stack([self.noted[place][name] for place in chosen]).tolist() for name in self.noted[0]}
        return {"step": [place + 1 for place in chosen]} | rows

    def counts(self) -> dict[str, int]:
        """Steps, their passes, and what went without a direction or a partner."""
        rows, dead = self.steps * self.batch_size, int(self.dead)
        if dead > DEAD_SHARE * rows:
            warnings.warn(f"dead features: {dead} of {rows} rows of tap {self.recipe.tap} have no length", stacklevel=4)
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "passes_per_step": self.cost,
            "dead_features": dead,
            "steps_without_a_pair": int(self.without_pair),
        }


# ---- small parts ---------------------------------------------------------------------------------------------------


def check_answers(outputs: Tensor, classes: int, kind: str, name: str) -> None:
    """Whether a subject's answers to a probe are (B, K) finite logits, or probabilities if it says so.

    Raises:
        SetupError: they are not.
    """
    if outputs.ndim != 2 or outputs.shape[1] != classes:
        raise SetupError(f"{name} answers {tuple(outputs.shape)} to {len(outputs)} images", f"expected (B, {classes})")
    if not outputs.isfinite().all():
        raise SetupError(f"{name} answers a probe with numbers that are not finite", "look at its weights")
    sums = bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < SUM_TOLERANCE).all())
    if sums and kind == "logits":
        raise SetupError(f"{name} seems to return probabilities: rows sum to 1", 'give logits, or set outputs="probs"')
    if not sums and kind == "probs":
        raise SetupError(f'{name} does not return probabilities, as outputs="probs" says', 'set outputs="logits"')


def temperature_of(recipe: Recipe, classes: int) -> float:
    """τ, or its default for so many classes."""
    return default_temperature(classes) if recipe.temperature is None else recipe.temperature


def padded(distributions: Tensor, classes: Tensor, outputs: int) -> Tensor:
    """(B, N) over conditioned classes → (B, K) over the subject's, 0 for the others."""
    return distributions.new_zeros(len(distributions), outputs).index_copy(1, classes, distributions)


def places_of(labels: Tensor, classes: Tensor) -> Tensor:
    """(B,) place of each label among the conditioned classes.

    Raises:
        SetupError: a label that is not conditioned.
    """
    equal = labels[:, None] == classes[None, :]  # (B, N)
    missing = ~equal.any(1)
    if missing.any():
        raise SetupError(
            f"class {int(labels[missing][0])} is asked for and not conditioned", f"class_map has {classes.tolist()}"
        )
    return equal.int().argmax(1)


def _leaders(task: Task, labels: Tensor) -> dict[int, int]:
    """Place → the place before it of the same class, for every second one of a class."""
    waiting: dict[int, int] = {}
    found: dict[int, int] = {}
    for place, label in sorted(zip(task.places.tolist(), labels.tolist(), strict=True)):
        leader = waiting.pop(label, None)
        if leader is None:
            waiting[label] = place
        else:
            found[place] = leader
    return found


@contextmanager
def _differentiable(model: Classifier, wanted: bool) -> Iterator[None]:
    """Let gradients reach the subject's parameters for as long as a term asks for them."""
    parameters: list[Any] = list(model.network.parameters()) if wanted else []
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
