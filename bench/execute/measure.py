"""Readings: every metric of a cell, from what the method made, the data and the networks alone.

The same code measures a fresh cell and re-measures a stored one, so a new metric can be added to old runs.
"""

import hashlib
import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import registry
from bench.back_projection import BackProjection, denormalised, top_tap
from bench.contract import Bound, Classifier, MetricCard, Undefined, Unsupported, seed_for
from bench.execute.features import BATCH, set_digest
from bench.execute.gates import refusal
from bench.execute.lab import Lab
from bench.execute.tracks import channel_tap, reference_places, training_images, wanted_labels
from bench.ops import in_batches
from bench.plan.cells import Cell
from bench.record import Cost, Reading
from bench.zoo.foundations import Judge, class_names, clip_directions

# Roles whose axis 0 counts what the method made: restricted together to a class, resampled together for an interval.
MADE_SIDE = frozenset(
    [
        "generated",
        "labels",
        "target_logits",
        "referee_logits",
        "clean_logits",
        "clean_referee_logits",
        "wanted_features",
        "generated_features",
        "target_features",
        "referee_features",
        "activation",
        "scores",
        "attacked",
        "noisy",
        "maps",
        "randomised_maps",
        "inception_features",
        "dinov2_features",
        "clip_logits",
        "wanted_distribution",
        "latent_groups",
        "target_labels",
        "perturbation_referee_logits",
        "panel_logits",
        "real_activation",
    ]
)
REAL_SIDE = frozenset(
    [
        "real",
        "real_labels",
        "real_target_features",
        "real_referee_features",
        "real_inception_features",
        "real_dinov2_features",
    ]
)
TRAINING_SIDE = frozenset({"training", "training_labels"})
REFERENCE_SIDE = frozenset({"reference_referee_features", "reference_labels"})
REPLICATE_WORK = 5e12  # see `affordable`
FEWEST_REPLICATES = 10
SUBSPACE_IMAGES, SUBSPACE_RANK = 64, 16  # of a class, see `class_subspaces` in `Roles`
NO_REFERENCES = "needs training images, the suite allows none (references: 0)"
STRONGEST = 9  # real images of a channel, see `real_activation` in `Roles`
# There the real side is in the same order.
PAIRED_TRACKS = ("training", "reconstruction", "adversarial", "attribution", "detection")


@dataclass(frozen=True)
class Expected:
    """What names a reading before it is taken.

    Args:
        score_id: first 16 hex digits of sha256 over the cell's key, the metric, its source and the references.
    """

    stem: str
    metric_sha256: str
    reference_sha256: str
    score_id: str


def expected(
    cell: Cell, stem: str, judge_digest: str, data_digest: str, panel_digests: tuple[str, ...] = ()
) -> Expected:
    """The identity that a reading of this cell should have now.

    Args:
        judge_digest: digest of the referee's weights, empty without one.
        data_digest: digest of the test images.
        panel_digests: those of the panel's weights; where there is no panel it has no part in the identity.
    """
    source = registry.source_digest("metric", stem)
    panel = (*panel_digests, *map(str, cell.panel_gates))
    reference = _sha("|".join((judge_digest, data_digest, str(cell.real_images), str(cell.judge_gate), *panel)))
    return Expected(stem, source, reference, _sha("|".join((cell.key, stem, source, reference)))[:16])


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Roles:
    """What metrics may ask for by name, made when first asked for.

    Args:
        artifacts: what the method made, on the CPU.
        cost: of making it.
        notes: the record's; why there is no artifact where there could be one.
    """

    def __init__(
        self, cell: Cell, lab: Lab, artifacts: Mapping[str, Tensor], cost: Cost, notes: Mapping[str, Any]
    ) -> None:
        self.cell, self.lab, self.cost, self.notes = cell, lab, cost, notes
        self.artifacts = {name: tensor.to(lab.device) for name, tensor in artifacts.items()}
        self._made: dict[str, Any] = {}
        self._parts: dict[tuple[str, int], Tensor] = {}

    def get(self, name: str) -> Any:
        """The role's value, or ``Undefined`` with the reason why this cell has none."""
        if name not in self._made:
            if name in self.artifacts:
                self._made[name] = self.artifacts[name]
            else:
                self._made[name] = getattr(self, f"_{name}")()
        return self._made[name]

    def of_class(self, name: str, side: frozenset[str], labels: Tensor, label: int) -> Any:
        """The rows of a role that belong to one class: the same tensor for all metrics, which may share work on it."""
        if name not in side:
            return self.get(name)
        if (name, label) not in self._parts:
            self._parts[name, label] = self.get(name)[labels == label]
        return self._parts[name, label]

    # Each of the following makes one role; shapes are those of bench.contract.ROLES.

    def _target(self) -> Classifier:
        cell = self.cell
        return self.lab.model(cell, cell.subject, cell.key if cell.track == "training" else cell.subject_key)

    def _bound(self) -> Bound:
        return Bound.parse(self.cell.condition)

    def _places(self) -> Tensor:
        """Places in the test split of the real images."""
        if self.cell.track in ("inversion", "visualization"):
            return reference_places(self.cell, self.lab)
        if self.cell.track == "training":
            return torch.arange(self.cell.images)
        if self.cell.track == "detection":
            return self.artifacts["originals"].cpu()
        return self.lab.data(self.cell).select("test", self.cell.images)

    def _real(self) -> Tensor:
        return self.lab.images(self.cell, "test", self.get("places"))

    def _real_labels(self) -> Tensor:
        return self.lab.labels(self.cell, "test", self.get("places"))

    def _labels(self) -> Tensor | Undefined:
        if self.cell.track == "inversion" or self.cell.condition == "class":
            return wanted_labels(self.cell, self.lab)
        if self.cell.track == "visualization":
            return Undefined("a channel has no class label")
        return self.lab.labels(self.cell, "test", self.get("places"))

    def _generated(self) -> Undefined:
        return Undefined(f"the {self.cell.track} track makes no images")

    def _scores(self) -> Undefined:
        return self._no_detection("has no detector scores")

    def _attacked(self) -> Undefined:
        return self._no_detection("does not mix attacked images with clean ones")

    def _noisy(self) -> Undefined:
        return self._no_detection("does not mix noisy images with clean ones")

    def _no_detection(self, otherwise: str) -> Undefined:
        """Why there is nothing that a detector has judged: a cell of the detection track keeps it, if there is any."""
        if "right" not in self.artifacts:
            return Undefined(f"the {self.cell.track} track {otherwise}")
        right = self.artifacts["right"]
        return Undefined(
            f"no attack succeeded: 0 of {int(right.sum())} pictures that the subject has right, of {len(right)}"
        )

    def _maps(self) -> Undefined:
        return Undefined(f"the {self.cell.track} track makes no maps")

    def _randomised_maps(self) -> Undefined:
        if self.cell.track != "attribution":
            return self._maps()
        return Undefined(
            self.notes.get("randomised_maps", "made before this was kept: run it again, with --only and --force")
        )

    def _wanted_distribution(self) -> Tensor | Undefined:
        """One-hot at the label; a method that asked for something else has said so."""
        labels = self.get("labels")
        if isinstance(labels, Undefined):
            return labels
        return torch.nn.functional.one_hot(labels, self.get("target").num_classes).float()

    def _latent_groups(self) -> Undefined:
        return Undefined("the method does not say which images differ by their latent alone")

    def _target_labels(self) -> Tensor | Undefined:
        """Of attacks that name none, the wrong class with the largest logit: what they gave, or came closest to."""
        if self.cell.track != "adversarial":
            return Undefined(f"the {self.cell.track} track aims at no wrong class")
        logits: Tensor | Undefined = self.get("target_logits")
        if isinstance(logits, Undefined):
            return logits
        return logits.scatter(1, self.get("labels")[:, None], -math.inf).argmax(1)

    def _class_subspaces(self) -> dict[int, Tensor] | Undefined:
        """Class → (r, C·H·W) orthonormal rows, r ≤ 16: the subject's back-projected features of a class lie near them.

        The leading right singular vectors of g(z_i) − g(0), in intensities, over the block's training images of the
        class. z_i is at the top tap; g transposes weights and has the recording of image i, so that no block needs a
        solver [our choice].
        """
        model: Classifier = self.get("target")
        try:
            back = BackProjection(model, top_tap(model))
        except Unsupported as reason:
            return Undefined(_line(reason))
        if not self.cell.spec["references"]:
            return Undefined(NO_REFERENCES)
        known = training_images(self.cell, self.lab)
        place = (self.cell.subject, self.cell.subject_key)
        images = set_digest("class subspaces", known["references"], known["reference_labels"])
        rows = self.lab.features.get(
            images, self.lab.checksum(*place), lambda: _subspaces(model, back, **known), lasting=False
        )
        return {int(label): part for label, part in rows.items() if len(part)}

    def _perturbation_referee_logits(self) -> Tensor | Undefined:
        """What the referee sees in x̂ − x alone, as strong as it goes, on the median colour of the training images.

        On MNIST that is black. On the mean colour, a dark grey, a referee took all 193 perturbations by PGD for an 8.
        """
        if self.cell.track != "adversarial":
            return Undefined(f"the {self.cell.track} track perturbs no images")
        judge = self.get("judge")
        if isinstance(judge, Undefined):
            return judge
        if not self.cell.spec["references"]:
            return Undefined(NO_REFERENCES)
        change = self.get("generated") - self.get("real")
        largest = change.abs().amax((1, 2, 3), keepdim=True)
        known = training_images(self.cell, self.lab)["references"]
        ground = known.transpose(0, 1).flatten(1).median(1).values[:, None, None]
        return self.lab.logits(judge, (ground + change / torch.where(largest > 0, largest, 1)).clamp(0, 1))

    def _cost(self) -> dict[str, Any]:
        return self.cost.model_dump()

    def _training_places(self) -> Tensor | Undefined:
        """Places in the train split: as many as judge, or all that the subject saw, the first of the order it took."""
        cell = self.cell
        if cell.subject_key is None:
            return Undefined(f"nobody here knows what the public weights of {cell.subject} were trained on")
        seen = int(self.lab.store.read(cell.subject_key).spec["training_images"])
        return self.lab.data(cell).select("train", min(cell.real_images, seen))

    def _training(self) -> Tensor | Undefined:
        places = self.get("training_places")
        return places if isinstance(places, Undefined) else self.lab.images(self.cell, "train", places)

    def _training_labels(self) -> Tensor | Undefined:
        places = self.get("training_places")
        return places if isinstance(places, Undefined) else self.lab.labels(self.cell, "train", places)

    def _target_logits(self) -> Tensor | Undefined:
        return self._seen("target", "generated", "logits")

    def _target_features(self) -> Tensor | Undefined:
        return self._seen("target", "generated", "penultimate")

    def _clean_logits(self) -> Tensor | Undefined:
        return self._seen("target", "real", "logits")

    def _referee_logits(self) -> Tensor | Undefined:
        return self._seen("judge", "generated", "logits")

    def _clean_referee_logits(self) -> Tensor | Undefined:
        return self._seen("judge", "real", "logits")

    def _referee_features(self) -> Tensor | Undefined:
        return self._seen("judge", "generated", "penultimate")

    def _real_referee_features(self) -> Tensor | Undefined:
        return self._seen("judge", "real", "penultimate")

    def _real_target_features(self) -> Tensor | Undefined:
        return self._seen("target", "real", "penultimate")

    def _reference_places(self) -> Tensor:
        """Places in the train split of the images that the method could look at."""
        return self.lab.data(self.cell).select("train", int(self.cell.spec["references"]))

    def _reference_labels(self) -> Tensor:
        return self.lab.labels(self.cell, "train", self.get("reference_places"))

    def _reference_referee_features(self) -> Tensor | Undefined:
        cell, judge = self.cell, self.get("judge")
        if isinstance(judge, Undefined):
            return judge
        places = self.get("reference_places")
        digest = self.lab.real_digest(cell, "train", places)
        name, shown = str(cell.judge), lambda: self.lab.images(cell, "train", places)
        return self.lab.look(name, cell.judge_key, judge, digest, shown, lasting=True)["penultimate"]

    def _panel_logits(self) -> Tensor | Undefined:
        """(N, J, K): one pass of each network of the panel over what the method made."""
        cell, generated = self.cell, self.get("generated")
        if not cell.panel:
            return Undefined("the suite names no panel")
        if isinstance(generated, Undefined):
            return generated
        found = []
        for name, key, gate in zip(cell.panel, cell.panel_keys, cell.panel_gates, strict=True):
            reason = refusal(cell, self.lab, name, key, gate)
            if reason:
                return Undefined(reason)
            model = self.lab.model(cell, name, key)
            if not model.num_classes:
                return Undefined(f"{name} has no logits")
            digest = self.get("generated_digest")
            found.append(self.lab.look(name, key, model, digest, lambda: generated, lasting=False)["logits"])
        if len({logits.shape[1] for logits in found}) > 1:
            return Undefined(f"{', '.join(cell.panel)} do not know equally many classes")
        return torch.stack(found, 1)

    def _judge(self) -> Classifier | Undefined:
        cell = self.cell
        if cell.judge is None:
            return Undefined("the suite names no referee")
        reason = refusal(cell, self.lab, cell.judge, cell.judge_key, cell.judge_gate)
        return Undefined(reason) if reason else self.lab.model(cell, cell.judge, cell.judge_key)

    def _seen(self, network: str, images: str, what: str) -> Tensor | Undefined:
        """What a network shows on one side's images; one pass serves all who ask."""
        model, cell = self.get(network), self.cell
        if isinstance(model, Undefined):
            return model
        if images == "generated" and isinstance(self.get("generated"), Undefined):
            return self.get("generated")  # type: ignore[no-any-return]
        if what == "logits" and not model.num_classes:
            return Undefined(f"{model.name} has no logits")
        names = {"target": (cell.subject, cell.subject_key), "judge": (str(cell.judge), cell.judge_key)}
        digest = self.get(f"{images}_digest")
        seen = self.lab.look(*names[network], model, digest, lambda: self.get(images), lasting=images == "real")
        return seen[what]

    def _inception_features(self) -> Tensor | Undefined:
        return self._shown("inception", "generated")

    def _real_inception_features(self) -> Tensor | Undefined:
        return self._shown("inception", "real")

    def _dinov2_features(self) -> Tensor | Undefined:
        return self._shown("dinov2", "generated")

    def _real_dinov2_features(self) -> Tensor | Undefined:
        return self._shown("dinov2", "real")

    def _clip_logits(self) -> Tensor | Undefined:
        data = self.lab.data(self.cell).card
        names = class_names(data)
        if names is None:
            return Undefined(f"{data.name} has no class names")
        seen = self._shown("clip", "generated")
        if isinstance(seen, Undefined):
            return seen
        clip, words = self.lab.judge("clip"), set_digest("sentences", *names)
        sentences = self.lab.features.get(
            words, clip.digest, lambda: {"shown": clip_directions(clip, names)}, lasting=True
        )
        return seen @ sentences["shown"].T

    def _lpips_alex(self) -> Judge:
        return self.lab.judge("lpips_alex")

    def _lpips_vgg(self) -> Judge:
        return self.lab.judge("lpips_vgg")

    def _shown(self, judge: str, images: str) -> Tensor | Undefined:
        """What a published network shows of one side's images."""
        if images == "generated" and isinstance(self.get("generated"), Undefined):
            return self.get("generated")  # type: ignore[no-any-return]
        network, digest = self.lab.judge(judge), self.get(f"{images}_digest")
        return self.lab.features.get(
            digest, network.digest, lambda: {"shown": network(self.get(images))}, lasting=images == "real"
        )["shown"]

    def _generated_digest(self) -> str:
        return set_digest(self.get("generated"))

    def _real_digest(self) -> str:
        return self.lab.real_digest(self.cell, "test", self.get("places"))

    def _wanted_features(self) -> Tensor:
        return self._at_tap(self.get("real"))

    def _generated_features(self) -> Tensor:
        return self._at_tap(self.get("generated"))

    def _at_tap(self, images: Tensor) -> Tensor:
        model: Classifier = self.get("target")
        with torch.no_grad():
            return in_batches(lambda part: model.features(part, self.cell.condition), images, BATCH)

    def _activation(self) -> Tensor:
        """(N,) the class logit, or the channel's mean over positions."""
        if self.cell.condition == "class":
            logits: Tensor = self.get("target_logits")
            return logits.gather(1, self.get("labels")[:, None])[:, 0]
        seen = self._channels(self.get("generated"))
        return seen.gather(1, self._asked(seen)[:, None])[:, 0]

    def _real_activation(self) -> Tensor | Undefined:
        """(N,) mean logit over the real images of the class, or the channel's mean over those that drive it most."""
        cell = self.cell
        if cell.track != "visualization":
            return Undefined(f"the {cell.track} track visualizes no neuron")
        if cell.condition != "class":
            seen = self._real_channels()
            strongest: Tensor = seen.topk(min(STRONGEST, len(seen)), dim=0).values.double().mean(0)
            return strongest[self._asked(seen)]
        logits: Tensor | Undefined = self.get("clean_logits")
        labels, real_labels = self.get("labels"), self.get("real_labels")
        if isinstance(logits, Undefined):
            return logits
        is_own = torch.nn.functional.one_hot(real_labels, logits.shape[1])
        counts = is_own.sum(0)[labels]
        if (counts == 0).any():
            return Undefined(f"no real image of class {int(labels[counts == 0][0])}")
        return (logits.double() * is_own).sum(0)[labels] / counts

    def _real_channels(self) -> Tensor:
        """(M, channels) of the real images, looked at once for all cells of the subject."""
        cell, images = self.cell, self.get("real_digest")
        self.get("target")  # once it is loaded its checksum is known
        network = f"{self.lab.checksum(cell.subject, cell.subject_key)}|{channel_tap(cell)}"
        return self.lab.features.get(
            images, network, lambda: {"channels": self._channels(self.get("real"))}, lasting=True
        )["channels"]

    def _channels(self, images: Tensor) -> Tensor:
        """(B, channels) of the condition's tap, each channel's mean over positions."""
        model: Classifier = self.get("target")
        tap = channel_tap(self.cell)

        def channels(part: Tensor) -> Tensor:
            seen = model.features(part, tap)
            return seen.mean((2, 3)) if seen.ndim == 4 else seen.mean(1) if seen.ndim == 3 else seen

        with torch.no_grad():
            return in_batches(channels, images, BATCH)

    def _asked(self, seen: Tensor) -> Tensor:
        """(N,) the channel that each of the cell's images aims at, of a tap seen as (B, channels)."""
        asked = torch.tensor(self.cell.spec["targets"] or list(range(seen.shape[1])), device=seen.device)
        return asked[torch.arange(self.cell.images, device=seen.device) % len(asked)]


def _subspaces(
    model: Classifier, back: BackProjection, *, references: Tensor, reference_labels: Tensor
) -> dict[str, Tensor]:
    """Name of each class that has references → its rows, see ``class_subspaces`` in ``Roles``."""
    found = {}
    for label in reference_labels.unique().tolist():
        recording = back.record(references[reference_labels == label][:SUBSPACE_IMAGES])
        ends = [back(z, recording) for z in (recording.features, torch.zeros_like(recording.features))]
        shown = denormalised(model, ends[0]) - denormalised(model, ends[1])
        _, sizes, rows = torch.linalg.svd(shown.flatten(1).double(), full_matrices=False)
        there = sizes > sizes[0] * torch.finfo(shown.dtype).eps  # the others are rounding, and point anywhere
        found[str(label)] = rows[there][:SUBSPACE_RANK].float()
    return found


# ---- taking readings -----------------------------------------------------------------------------------------------


def measure(
    cell: Cell,
    lab: Lab,
    artifacts: Mapping[str, Tensor],
    wanted: Mapping[str, Expected],
    *,
    cost: Cost,
    notes: Mapping[str, Any],
) -> tuple[list[Reading], dict[str, np.ndarray]]:
    """Take the readings named in ``wanted``; see ``Roles`` for the other arguments.

    Returns:
        The readings, and the per-unit values and replicates that belong into values.safetensors.
    """
    roles = Roles(cell, lab, artifacts, cost, notes)
    readings: list[Reading] = []
    kept: dict[str, np.ndarray] = {}
    for identity in wanted.values():
        reading, arrays = _read(cell, roles, identity)
        readings.append(reading)
        kept |= arrays
    return readings, kept


def _read(cell: Cell, roles: Roles, identity: Expected) -> tuple[Reading, dict[str, np.ndarray]]:
    started = time.perf_counter()
    blank: dict[str, Any] = {
        "stem": identity.stem,
        "metric": identity.stem,
        "score_id": identity.score_id,
        "metric_sha256": identity.metric_sha256,
        "reference_sha256": identity.reference_sha256,
    }
    try:
        function = registry.load_metric(identity.stem)
    except Exception as error:  # whatever a metric's file does, the method's work is not lost
        unknown = {"unit": "", "better": "neither", "per": "set", "resample": "none"}
        return Reading(**blank, **unknown, **_failure(error)), {}
    card: MetricCard = function.__glassbench__
    blank |= {
        "metric": (card.id or identity.stem).format(
            referee=_short(cell.judge), panel="+".join(map(_short, cell.panel)) or "panel"
        ),
        "metric_version": card.version,
        "unit": card.unit,
        "better": card.better,
        "decimals": card.decimals,
        "per": card.per,
        "resample": card.resample,
        "n_expected": cell.images,
        "n_reference": cell.real_images if REAL_SIDE & set(_parameters(function)) and _has_references(cell) else None,
    }
    try:
        outcome = _take(function, card, cell, roles)
    except Exception as error:
        return Reading(**blank, **_failure(error)), {}
    seconds = time.perf_counter() - started
    if isinstance(outcome, Undefined):
        return Reading(**blank, status="undefined", error=_line(outcome.reason), seconds=seconds), {}
    value, arrays, counts = outcome
    names = {kind: f"{identity.stem}.{kind}" for kind in arrays}
    reading = Reading(**(blank | counts), status="ok", value=value, seconds=seconds, **names)
    return reading, {names[kind]: array for kind, array in arrays.items()}


def _failure(error: Exception) -> dict[str, str]:
    if isinstance(error, Unsupported):
        return {"status": "unsupported", "error": _line(error)}
    return {"status": "failed", "error": f"{type(error).__name__}: {_line(error)}"[:200]}


Outcome = tuple[float, dict[str, np.ndarray], dict[str, int]]


def _take(function: Callable[..., Any], card: MetricCard, cell: Cell, roles: Roles) -> Outcome | Undefined:
    """Call the metric as its card says. (value, arrays for the values file, counts for the record), or why not."""
    given: dict[str, Any] = {}
    for name in _parameters(function):
        given[name] = roles.get(name)
        if isinstance(given[name], Undefined):
            return given[name]  # type: ignore[no-any-return]
    match card.per:
        case "image":
            return _per_image(function, card, given)
        case "class":
            return _per_class(function, cell, roles, given)
        case _:
            return _per_set(function, card, cell, given, roles.artifacts.get("originals"))


def _per_image(function: Callable[..., Any], card: MetricCard, given: dict[str, Any]) -> Outcome | Undefined:
    answer = function(**given)
    if isinstance(answer, Undefined):
        return answer
    values = answer.double().cpu().numpy()
    there = np.isfinite(values)
    if not there.any() or (not there.all() and not card.partial):
        return Undefined(f"{int((~there).sum())} of {len(values)} images have no finite value")
    return float(values[there].mean()), {"values": np.where(there, values, np.nan)}, {"n_scored": int(there.sum())}


def _per_class(function: Callable[..., Any], cell: Cell, roles: Roles, given: dict[str, Any]) -> Outcome | Undefined:
    labels = roles.get("labels")
    if isinstance(labels, Undefined):
        return labels
    values = []
    for label in labels.unique().tolist():
        part = {name: roles.of_class(name, _made_side(cell), labels, label) for name in given}
        for side, owner in (
            (_real_side(cell), "real_labels"),
            (TRAINING_SIDE, "training_labels"),
            (REFERENCE_SIDE, "reference_labels"),
        ):
            part |= {name: roles.of_class(name, side, roles.get(owner), label) for name in side & given.keys()}
        answer = function(**part)
        if isinstance(answer, Undefined):
            return Undefined(f"class {label}: {answer.reason}")
        values.append(float(answer))
    return _finite(float(np.mean(values)), {"values": np.array(values)}, len(values), "n_expected")


def _per_set(
    function: Callable[..., Any], card: MetricCard, cell: Cell, given: dict[str, Any], originals: Tensor | None = None
) -> Outcome | Undefined:
    """A set's value, and its replicates: with other images, or other originals with all that was made of each."""
    answer = function(**given)
    if isinstance(answer, Undefined):
        return answer
    arrays: dict[str, np.ndarray] = {}
    side = _made_side(cell)
    lengths = {len(value) for name, value in given.items() if name in side}
    count = lengths.pop() if len(lengths) == 1 else 0
    number = affordable(card.replicates, count, given) if card.resample == "image" and count else 0
    if number:
        device = next(value.device for name, value in given.items() if name in side)
        draws = _draws(number, count) if originals is None else _draws_of_originals(number, originals)
        drawn = [function(**_slice(given, side, torch.from_numpy(row).to(device))) for row in draws]
        arrays["replicates"] = np.array([math.nan if isinstance(one, Undefined) else float(one) for one in drawn])
    return _finite(float(answer), arrays, count or cell.images)


def _draws(number: int, count: int) -> np.ndarray:
    """(number, count) places drawn with replacement: the same ones wherever there are as many."""
    return np.random.default_rng(seed_for("replicates", count)).integers(0, count, (number, count))


def _draws_of_originals(number: int, originals: Tensor) -> np.ndarray:
    """(number, N) places of N images: originals are drawn, each with all of its images, equally many."""
    groups = len(originals.unique())
    places = originals.argsort(stable=True).view(groups, -1).cpu().numpy()  # (G, images of an original)
    drawn: np.ndarray = places[_draws(number, groups)].reshape(number, -1)
    return drawn


def affordable(most: int, count: int, given: Mapping[str, Any]) -> int:
    """How many replicates of a set metric are made: ``most``, or as many as 5·10¹² multiplications allow.

    One replicate is reckoned as one product of all that the metric is given with the ``count`` images that the method
    made: 100 replicates for 3 000 against 3 000 images of 2 048 features, 12 for 10 000 against 10 000. Fewer than 10
    make no interval, so none are made. The rule looks at shapes alone, so that cells of equal shape have equally many;
    elsewhere the fewer are the first of the more.
    """
    numbers = sum(value.numel() for value in given.values() if isinstance(value, Tensor))
    allowed = int(REPLICATE_WORK // max(1, count * numbers))
    return min(most, allowed) if allowed >= FEWEST_REPLICATES else 0


def _finite(value: float, arrays: dict[str, np.ndarray], scored: int, also: str = "n_scored") -> Outcome | Undefined:
    if not math.isfinite(value):
        return Undefined(f"the value is {value}")
    return value, arrays, {"n_scored": scored, also: scored}


def _slice(given: dict[str, Any], side: frozenset[str], chosen: Tensor) -> dict[str, Any]:
    return {name: value[chosen] if name in side else value for name, value in given.items()}


def _made_side(cell: Cell) -> frozenset[str]:
    return MADE_SIDE | REAL_SIDE if cell.track in PAIRED_TRACKS else MADE_SIDE


def _real_side(cell: Cell) -> frozenset[str]:
    return frozenset() if cell.track in PAIRED_TRACKS else REAL_SIDE


def _has_references(cell: Cell) -> bool:
    return cell.track in ("inversion", "visualization")


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The roles that a metric asks for: its parameters without a default."""
    every = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in every if parameter.default is inspect.Parameter.empty]


def _short(judge: str | None) -> str:
    return (judge or "referee").split(".")[0]


def _line(error: object) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
