"""Cells: the smallest things that are run, recorded and ranked, crossed from a suite."""

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from bench import registry
from bench.contract import (
    TRACKS,
    Classifier,
    SetupError,
    Unsupported,
)
from bench.plan.stubs import Learned, Shown, channel_count, check_channels, stub_task, training_stub
from bench.plan.suite import AnySuite, Block, MethodSpec, RecipeSpec, StartSpec, SubjectName, Suite, split_attacks
from bench.zoo import networks, weights
from bench.zoo.datasets import Dataset, DatasetCard, EvalTransform, open_dataset

LEARNING_TRACKS = ("reconstruction", "visualization", "adversarial", "detection")  # their tasks bring training images
PANEL_TRACKS = ("visualization",)  # no metric of another asks for the panel


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Args:
        spec: everything that can change what the method makes, JSON values only; the key is its hash.
        condition, subject, …: as on the boards.
        subject_key: key of the training cell that makes the subject; None for public weights.
        judge, judge_key: the referee's name, and the training cell that makes it (None for public weights).
        panel, panel_keys: the same of each network that judges beside the referee; ``panel_gates`` are theirs.
        attack_key, known_attack_key: the adversarial cells whose images a detector faces and has learned from.
        start_key: the training cell whose weights a training starts from (None for public weights, and for drawn ones).
        metrics: stems of the metrics that read it.
        wanted: the suite asks for it (otherwise another cell needs it).
        skip: (status, reason) when it cannot be run here.
    """

    track: str
    dataset: str
    split: str
    subject: str
    condition: str
    method: str
    variant: str
    method_version: int
    seed: int
    spec: Mapping[str, Any]
    settings: Mapping[str, Any]
    subject_key: str | None = None
    judge: str | None = None
    judge_key: str | None = None
    attack_key: str | None = None
    known_attack_key: str | None = None
    start_key: str | None = None
    gate: float | None = None
    judge_gate: float | None = None
    panel: tuple[str, ...] = ()
    panel_keys: tuple[str | None, ...] = ()
    panel_gates: tuple[float | None, ...] = ()
    override_gate: bool = False
    metrics: tuple[str, ...] = ()
    timeout_s: float = 3600.0
    real_images: int = 0
    folder: str | None = None
    is_reference: bool = False
    wanted: bool = True
    skip: tuple[str, str] | None = None

    @property
    def key(self) -> str:
        """First 16 hex digits of sha256 over the canonical JSON of ``spec``."""
        return _digest(self.spec)[:16]

    @property
    def config_digest(self) -> str:
        """sha256 of the configuration that all seeds of one row share."""
        seeds_own = ("seed", "subject", "attack", "known_attack", "start")
        return _digest({name: v for name, v in self.spec.items() if name not in seeds_own})

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the cells that must be ok before this one can start."""
        attacks = (self.attack_key, self.known_attack_key)
        every = (self.subject_key, self.judge_key, *self.panel_keys, *attacks, self.start_key)
        return tuple(dict.fromkeys(key for key in every if key))

    @property
    def full_method(self) -> str:
        """Track and stem, joined by a slash."""
        return f"{self.track}/{self.method}"

    @property
    def images(self) -> int:
        """How many images the cell makes or judges."""
        return int(self.spec["images"])

    @property
    def passes(self) -> int:
        """The most image passes the method may spend: its whole budget, or the training recipe's."""
        if self.track == "training":
            return 2 * int(self.spec["recipe"]["epochs"]) * int(self.spec["training_images"])
        return int(self.spec["budget"]) * self.images

    def __str__(self) -> str:
        dataset = "" if self.dataset in self.subject.split(".") else self.dataset
        parts = (self.track, dataset, self.subject, self.condition, self.method, self.variant, f"seed {self.seed}")
        return " · ".join(part for part in parts if part and part != "default")


def _digest(spec: Mapping[str, Any]) -> str:
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """All cells of a suite, needs before what needs them."""

    suite: AnySuite
    cells: tuple[Cell, ...]
    data: Mapping[str, DatasetCard]  # of each data set as it was opened

    @property
    def wanted(self) -> tuple[Cell, ...]:
        """The cells that the suite's boards show."""
        return tuple(cell for cell in self.cells if cell.wanted)


def make_plan(suite: AnySuite, root: Path | None) -> Plan:
    """Cross the suite into cells, with the reason to skip where there is one.

    Args:
        root: where the data lie (``GLASSBENCH_DATA``), None where there is none.

    Raises:
        SetupError: a data or weights file is missing or corrupt, a tap or setting does not exist, …
    """
    cells: list[Cell] = []
    cards = {}
    for part in suite.parts:
        data = open_dataset(part.dataset, root, folder=Path(part.folder) if part.folder else None)
        planner = _Planner(part, data, root)
        for track in TRACKS:  # the tracks' own order: training comes first
            for block in part.tracks.get(track, ()):
                planner.cross(track, block)
        cells += planner.cells.values()
        cards[part.dataset] = data.card
    for claim in suite.claims:
        claim.check_metrics()
    return Plan(suite, tuple(cells), cards)


class _Planner:
    """Keeps the cells by key while a suite is crossed on one data set, so that what many need is planned once."""

    def __init__(self, suite: Suite, data: Dataset, root: Path | None) -> None:
        self.suite, self.data, self.root = suite, data, root
        self.cells: dict[str, Cell] = {}
        self.untrained = cache(self._untrained)
        self.structure = cache(lambda network: structure_digest(self.untrained(network)))
        self.model = cache(self._model)
        self.reason = cache(self._reason)
        self.fits = cache(self._fits)
        self.network = cache(self._network)
        self.metrics = cache(self._metrics)
        self.checked: set[tuple[str, str, str, str]] = set()  # what `_check_images` has found to be there

    # -- crossing ----------------------------------------------------------------------------------------------------

    def cross(self, track: str, block: Block) -> None:
        """Add all cells of one block."""
        subjects = self.suite.subjects if block.subjects is None else block.subjects
        for subject in subjects:
            for condition in block.conditions:
                for spec in block.methods:
                    for seed in self.suite.seeds:
                        if track == "training":
                            self.training(subject, spec, seed, wanted=True, metrics=block.metrics)
                        else:
                            self.testing(track, block, subject, condition, spec, seed, wanted=True)

    def add(self, cell: Cell) -> str:
        """Keep a cell; one that was only needed so far becomes wanted when the suite asks for it."""
        known = self.cells.get(cell.key)
        if known is None or (cell.wanted and not known.wanted):
            self.cells[cell.key] = cell
        return cell.key

    def training(
        self,
        network: str,
        method: MethodSpec,
        seed: int,
        *,
        wanted: bool,
        recipe: RecipeSpec | StartSpec | None = None,
        metrics: list[str] | None = None,
    ) -> str:
        """Plan the training of a network, and before it that of its start; returns the key.

        Args:
            recipe: the suite's for the network when left out.
            metrics: all of the track when left out.
        """
        suite, card = self.suite, self.data.card
        recipe = recipe or suite.recipe_of(network)
        skip, common = self._method_part("training", method)
        fixed = recipe.model_dump(exclude={"start", "method", "variant"})
        fixed["augment"] = recipe.augment or card.augment
        size = fixed.pop("images") or len(self.data.labels("train"))
        start_key, start = None, {}
        if isinstance(recipe, RecipeSpec) and recipe.start is not None:
            start_key, named = self._start(network, recipe.start, seed)
            start = {"start": named}
        spec = common | {
            "subject": network,
            "network": self.structure(network),
            "seed": seed,
            "recipe": fixed,
            "training_images": size,
            "training_data": self.data.digest("train"),
            "images": len(self.data.labels("test")),
            **start,
        }
        return self.add(
            Cell(
                track="training",
                dataset=suite.dataset,
                split="test",
                subject=network,
                condition="",
                method=method.name,
                variant=method.variant,
                method_version=spec["method_version"],
                seed=seed,
                spec=spec,
                settings=spec["settings"],
                start_key=start_key,
                metrics=self.metrics("training", _hashable(metrics)),
                timeout_s=suite.timeout_s,
                folder=suite.folder,
                wanted=wanted,
                skip=skip or self.reason("training", method.model_dump_json(), network, "", 0, 2),
            )
        )

    def testing(
        self, track: str, block: Block, subject: str, condition: str, method: MethodSpec, seed: int, *, wanted: bool
    ) -> str:
        """Plan one cell of a track that looks into a subject; returns the key."""
        suite = self.suite
        skip, common = self._method_part(track, method)
        subject_key, recipe_key = self.network(subject, seed)
        judge = suite.judge_of(subject)
        is_trained_here = SubjectName.parse(subject).is_trained_here
        if judge == subject and (not is_trained_here or suite.referee_seed in suite.seeds):
            raise SetupError(f"{subject} would judge itself", "name a referee of another architecture or seed")
        judge_key = self.network(judge, suite.referee_seed)[0] if judge else None
        panel = suite.panel_of(subject) if track in PANEL_TRACKS else ()
        self._check_images(track, block, subject, condition)
        self._check_judges(subject, (judge, *panel))
        if common["is_reference"] and track in ("inversion", "visualization"):
            self._check_left_over(track, block, condition)
        attack_key, known_attack_key, images, learned = None, None, block.images, None
        if track == "detection":
            attack_key, known_attack_key = (
                self._attack(block, subject, attack, bound, seed) for attack, bound in split_attacks(condition)
            )
            images, known = (3 * count for count in self._sides(attack_key, known_attack_key))
            learned = Learned(block.references, known)
        spec = common | {
            "subject": recipe_key,
            "condition": condition,
            "seed": seed,
            "budget": block.budget,
            "images": images,
            "batch_size": block.batch_size or suite.batch_size,
            "targets": block.targets,
            "references": block.references if track in LEARNING_TRACKS else 0,
            "attack": attack_key,
        }
        if track == "detection":
            spec["known_attack"] = known_attack_key
        if common["is_reference"] and track in ("inversion", "visualization"):
            spec["real_images"] = suite.real_images  # they judge; a reference method shows the next ones
        return self.add(
            Cell(
                track=track,
                dataset=suite.dataset,
                split="test",
                subject=subject,
                condition=condition,
                method=method.name,
                variant=method.variant,
                method_version=spec["method_version"],
                seed=seed,
                spec=spec,
                settings=spec["settings"],
                subject_key=subject_key,
                judge=judge,
                judge_key=judge_key,
                attack_key=attack_key,
                known_attack_key=known_attack_key,
                gate=suite.gates.get(subject),
                judge_gate=suite.gates.get(judge or ""),
                panel=panel,
                panel_keys=tuple(self.network(name, suite.referee_seed)[0] for name in panel),
                panel_gates=tuple(suite.gates.get(name) for name in panel),
                override_gate=suite.override_gates,
                metrics=self.metrics(track, _hashable(block.metrics)),
                timeout_s=block.timeout_s or suite.timeout_s,
                real_images=suite.real_images,
                folder=suite.folder,
                is_reference=common["is_reference"],
                wanted=wanted,
                skip=skip
                or self.reason(
                    track,
                    method.model_dump_json(),
                    subject,
                    condition,
                    block.budget,
                    images,
                    self._shown(block, subject, condition) if track == "visualization" else None,
                    learned,
                ),
            )
        )

    # -- parts -------------------------------------------------------------------------------------------------------

    def _network(self, name: str, seed: int) -> tuple[str | None, str]:
        """(key of the training cell or None, what stands for the subject in a key)."""
        parsed = SubjectName.parse(name)
        if parsed.is_trained_here:
            method = MethodSpec(name=parsed.training, variant=parsed.variant)
            key = self.training(parsed.network, method, seed, wanted=False)
            return key, key
        digest = weights.public_card(name).sha256
        if not digest and not isinstance(model := self.model(name), Unsupported):
            digest = model.checksum()  # known by its tag: only the loaded weights can tell
        return None, f"{name}@{digest}"

    def _start(self, network: str, start: str | StartSpec, seed: int) -> tuple[str | None, str]:
        """(key of the training cell whose weights a network starts from or None, what stands for them in a key)."""
        if isinstance(start, str):
            self.fits(network, start)
            return self.network(start, seed)
        method = MethodSpec(name=start.method, variant=start.variant)
        if hasattr(registry.load_method(f"training/{start.method}"), "rebuild"):
            raise SetupError(
                f"start of {network}: {start.method} returns a network with other modules", "start with another method"
            )
        key = self.training(network, method, seed, wanted=False, recipe=start)
        return key, key

    def _fits(self, network: str, public: str) -> None:
        """Public weights can be the start of a network on this data set."""
        untrained, shape = self._untrained(network), self.data.card.image_shape
        with contextlib.suppress(Unsupported):  # the cell will say so
            weights.start_from_public(untrained, public, shape, self.root)

    def _sides(self, attack_key: str, known_attack_key: str) -> tuple[int, int]:
        """How many pictures a detector is judged by and learns from, at most: if every attack succeeds."""
        pictures, known = (self.cells[key].images for key in (attack_key, known_attack_key))
        return pictures - pictures // 2, min(pictures // 2, known)

    def _attack(self, block: Block, subject: str, attack: str, bound: str, seed: int) -> str:
        """The adversarial cell behind a detection condition: the suite's own, its default variant before others."""
        for other in self.suite.tracks.get("adversarial", ()):
            for method in sorted(other.methods, key=lambda method: method.variant != "default"):
                if method.name == attack and bound in other.conditions and subject in (other.subjects or [subject]):
                    return self.testing("adversarial", other, subject, bound, method, seed, wanted=False)
        return self.testing("adversarial", block, subject, bound, MethodSpec(name=attack), seed, wanted=False)

    def _method_part(self, track: str, method: MethodSpec) -> tuple[tuple[str, str] | None, dict[str, Any]]:
        """What the method adds to the key. (status, reason) first, when its library is missing."""
        name = f"{track}/{method.name}"
        skip = None
        settings: Any = method.settings
        version, reference = 0, False
        try:
            made = registry.make_method(name, method.variant, method.settings)
            settings = dataclasses.asdict(made)
            card = registry.method_card(name)
            version, reference = card.version, card.reference
        except Unsupported as error:
            skip = ("unsupported", str(error))
        return skip, {
            "protocol": self.suite.protocol,
            "track": track,
            "dataset": self.suite.dataset,
            "data": self.data.digest("test"),
            "method": method.name,
            "variant": method.variant,
            "settings": settings,
            "method_version": version,
            "source": registry.source_digest("method", name),
            "precision": self.suite.precision,
            "threads": self.suite.threads,
            "is_reference": reference,
        }

    def _metrics(self, track: str, asked: tuple[str, ...] | None) -> tuple[str, ...]:
        """The metrics of a track, or those asked for."""
        found = []
        for name in registry.metric_names() if asked is None else asked:
            try:
                belongs = track in registry.metric_card(name).tracks
            except Unsupported:
                belongs = asked is not None
            if belongs:
                found.append(name)
            elif asked is not None:
                raise SetupError(f"metric {name} does not belong to the {track} track", "leave it out")
        return tuple(found)

    def _check_images(self, track: str, block: Block, subject: str, condition: str) -> None:
        """The data set has the images that a block asks for, and can show them in the subject's size."""
        place = (track, block.model_dump_json(exclude={"methods", "conditions"}), subject, condition)
        if place in self.checked:
            return
        self.checked.add(place)
        name, classes = self.suite.dataset, self.data.card.num_classes
        asked = {"real_images": ("test", self.suite.real_images)}
        if track not in ("inversion", "visualization"):
            asked = {"images": ("test", block.images)}
        if track in LEARNING_TRACKS and (block.references or track != "adversarial"):  # most attacks look at none
            asked["references"] = ("train", block.references)
        for key, (split, count) in asked.items():
            try:
                self.data.select(split, count)
            except SetupError as problem:
                raise SetupError(f"{key} of the {track} track: {problem}") from problem
        if (track == "inversion" or condition == "class") and not all(0 <= t < classes for t in block.targets or ()):
            raise SetupError(f"{track}: a target of {block.targets} is out of range", f"{name} has 0 to {classes - 1}")
        if condition.startswith("channel_") and not isinstance(model := self.model(subject), Unsupported):
            check_channels(model, condition.removeprefix("channel_"), block.targets or ())
        if not SubjectName.parse(subject).is_trained_here:
            shape = weights.public_card(subject).image_shape
            shown = self.data.images("test", self.data.select("test", 1), eval_transform(subject, self.data.card))
            if tuple(shown.shape[1:]) != shape:
                raise SetupError(f"{subject} takes images of shape {shape}, {name} has {tuple(shown.shape[1:])}")

    def _check_judges(self, subject: str, judges: Iterable[str | None]) -> None:
        """Every judge takes the images that are made for the subject."""
        made = self._image_shape(subject)
        for judge in filter(None, judges):
            if (taken := self._image_shape(judge)) != made:
                raise SetupError(
                    f"{judge} cannot judge {subject}: it takes images of shape {taken}, not {made}",
                    "name a referee and a panel that take the subject's images",
                )

    def _image_shape(self, name: str) -> tuple[int, int, int]:
        here = SubjectName.parse(name).is_trained_here
        return (self.data.card if here else weights.public_card(name)).image_shape

    def _check_left_over(self, track: str, block: Block, condition: str) -> None:
        """Beside the real images that judge, enough are left for a method that shows real images."""
        every, judges = self.data.labels("test"), self.suite.real_images
        left = every[self.data.select("test", len(every))[judges:]]
        classes = block.targets or range(self.data.card.num_classes)
        asked = Counter(islice(cycle(classes), block.images)) if track == "inversion" or condition == "class" else {}
        if len(left) < block.images or any((left == label).sum() < count for label, count in asked.items()):
            raise SetupError(
                f"{track}: {block.images} real images beside the {judges} that judge are not there",
                f"lower images or real_images; {self.suite.dataset} has {len(every)} test images",
            )

    # -- reasons to skip ---------------------------------------------------------------------------------------------

    def _untrained(self, network: str) -> Any:
        return build_untrained(network, self.data.card, seed=0)

    def _model(self, name: str) -> Classifier | Unsupported:
        """A subject: untrained where a training cell makes it, else its public weights or why they are not here."""
        parsed, card = SubjectName.parse(name), self.data.card
        try:
            if not parsed.is_trained_here:
                return weights.load_public(name, self.root)
            method = registry.make_method(f"training/{parsed.training}", parsed.variant)
        except Unsupported as error:
            return error
        try:
            network = build_as_trained(parsed.network, card, method)
        except SetupError as problem:  # no network for this method: its training is skipped for the same reason
            return Unsupported(str(problem))
        return networks.wrap(network, name=name, num_classes=card.num_classes, image_shape=card.image_shape)

    def _shown(self, block: Block, subject: str, condition: str) -> Shown:
        """What a visualization is asked for, and the labels of the references that it gets."""
        targets = islice(cycle(block.targets or range(self._target_count(subject, condition))), block.images)
        labels = self.data.labels("train")[self.data.select("train", block.references)]
        return Shown(tuple(targets), tuple(labels.tolist()))

    def _target_count(self, subject: str, condition: str) -> int:
        """How many classes or channels there are; one where the subject's weights are not here to tell."""
        if condition == "class":
            return self.data.card.num_classes
        model = self.model(subject)
        return 1 if isinstance(model, Unsupported) else channel_count(model, condition.removeprefix("channel_"))

    def _reason(
        self,
        track: str,
        method: str,
        subject: str,
        condition: str,
        budget: int,
        images: int,
        shown: Shown | None = None,
        learned: Learned | None = None,
    ) -> tuple[str, str] | None:
        """Ask ``why_not`` with a task of as many empty images and, for subjects trained here, an untrained network."""
        spec = MethodSpec.model_validate_json(method)
        instance = registry.make_method(f"{track}/{spec.name}", spec.variant, spec.settings)
        name = f"{track}/{spec.name}" + ("" if spec.variant == "default" else f" ({spec.variant})")
        ask: Callable[[Any], str | None] = getattr(instance, "why_not", lambda task: None)
        if track == "training":
            return _answer(name, ask, training_stub(self.untrained(subject), self.data.card))
        model = self.model(subject)
        if isinstance(model, Unsupported):
            return "unsupported", str(model)
        if not model.num_classes and track not in ("reconstruction", "visualization"):
            return "skipped", f"needs logits, {subject} has none"
        if not model.num_classes and condition == "class":
            return "skipped", f"needs class logits, {subject} has none"
        return _answer(name, ask, stub_task(track, model, condition, budget, images, shown, learned))


def _hashable(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _answer(name: str, ask: Callable[[Any], str | None], task: Any) -> tuple[str, str] | None:
    """What a method's ``why_not`` says; a fault in it costs the method's own cells alone."""
    try:
        reason = ask(task)
    except SetupError as problem:
        raise SetupError(f"{name}: {problem}") from problem
    except Exception as error:
        return "failed", f"why_not: {type(error).__name__}: {error}"
    return ("skipped", reason) if reason else None


def build_untrained(network: str, card: DatasetCard, seed: int) -> Any:
    """An untrained network for a data set, its start fixed by the seed."""
    return networks.untrained(
        network, num_classes=card.num_classes, image_shape=card.image_shape, mean=card.mean, std=card.std, seed=seed
    )


def build_as_trained(network: str, card: DatasetCard, method: Any) -> Any:
    """An untrained network in the shape in which a training method returns it, for trained weights to be loaded."""
    untrained = build_untrained(network, card, seed=0)
    if not hasattr(method, "rebuild"):
        return untrained
    with networks.private_random(0):
        return method.rebuild(untrained, card.num_classes)


def eval_transform(subject: str, data: DatasetCard) -> EvalTransform | None:
    """How pictures become the size that public weights take; None where the data set's own way gives that size.

    ``imagenet`` is always shown by the network's own standard evaluation transform.
    """
    if SubjectName.parse(subject).is_trained_here:
        return None
    card = weights.public_card(subject)
    own = data.name != "imagenet" and card.image_shape == data.image_shape
    return None if own else card.transform


def structure_digest(network: Any) -> str:
    """sha256 of a network's modules and first weights: another architecture or start gives another subject."""
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
