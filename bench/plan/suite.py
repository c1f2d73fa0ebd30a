"""Suite files: what they may say, and that every name in them exists. No torch is loaded for this."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from bench import registry
from bench.contract import TRACKS, Bound, SetupError
from bench.plan.claims import ClaimSpec, Lines, Row
from bench.zoo.datasets import dataset_card, dataset_names
from bench.zoo.networks import network_card
from bench.zoo.weights import public_card

SUITES = Path(__file__).resolve().parent.parent / "suites"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,59}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_mapping(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


class MethodSpec(_Strict):
    """A method of the suite: its stem, or ``{name: …, variant: …, settings: {…}}``."""

    name: str
    variant: str = "default"
    settings: dict[str, Any] = {}


class Block(_Strict):
    """Cells of one track: subjects × conditions × methods × seeds. A track is one block or a list of them."""

    methods: list[Annotated[MethodSpec, BeforeValidator(_as_mapping)]]
    subjects: list[str] | None = None  # the suite's subjects; of the training track: networks
    conditions: list[str] = [""]
    images: int = Field(default=100, ge=1)  # of one cell
    budget: int = Field(default=200, ge=1)  # passes an image may cost, forward and backward together
    # classes or channels asked for, in turn; all of them when left out
    targets: list[int] | None = Field(default=None, min_length=1)
    references: int = Field(default=200, ge=0)  # training images that a method may look at, where its track allows any
    batch_size: int | None = Field(default=None, ge=1)  # the suite's when left out
    timeout_s: float | None = Field(default=None, gt=0)
    metrics: list[str] | None = None  # all of the track when left out


class _Recipe(_Strict):
    """See ``bench.contract.Recipe``."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=1)
    warmup_epochs: float = Field(default=1.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    augment: str | None = None  # the data set's when left out
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    images: int | None = Field(default=None, ge=1)  # a fixed class-balanced part of the training images; all by default


class StartSpec(_Recipe):
    """The training that comes before: by this method, from weights that the seed draws."""

    method: str = "sgd"
    variant: str = "default"


def _kind_of_start(value: Any) -> str:
    return "[weights]" if isinstance(value, str) else "[training]"  # in brackets: no part of a place in a file


class RecipeSpec(_Recipe):
    """How networks are trained, whatever the method, and the weights that all methods start from."""

    # name of public weights, or a training; drawn by the seed when left out
    start: (
        Annotated[
            Annotated[str, Tag("[weights]")] | Annotated[StartSpec, Tag("[training]")], Discriminator(_kind_of_start)
        ]
        | None
    ) = None


class AnySuite(_Strict, ABC):
    """What all data sets of a suite share: its boards and what they are asked, and its workers."""

    suite: str
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    protocol: int = Field(ge=1)
    description: str = ""
    profile: str = "cpu"
    threads: int = Field(default=1, ge=1)  # of each worker; part of every key
    primary: dict[str, str] = {}  # track → the metric that ranks its board, where it is not the track's own
    rank_references: bool = False  # rank methods that show real images too: for suites that put metrics to the test
    notes: dict[str, Lines] = {}  # track → lines that its board shows
    claims: list[ClaimSpec] = []  # what the boards are asked; no part of any key

    @property
    @abstractmethod
    def parts(self) -> "tuple[Suite, ...]":
        """A suite of its own for each data set."""

    @property
    def board(self) -> str:
        """Name of its boards: profiles never share one, nor does a suite on data that it was not written for."""
        other = [part.dataset for part in self.parts if part.written_for]
        return "_".join([self.suite, *other, *([] if self.profile == "cpu" else [self.profile])])

    def blocks(self, track: str) -> list[Block]:
        """What is run in the track, on any data set."""
        return [block for part in self.parts for block in part.tracks.get(track, ())]

    @property
    def track_names(self) -> list[str]:
        """The tracks that it has on any data set."""
        return list(dict.fromkeys(track for part in self.parts for track in part.tracks))

    def rows(self, track: str) -> list[Row]:
        """The rows that the track's board will have."""
        return [
            Row(part.dataset, subject, condition, method.name, method.variant)
            for part in self.parts
            for block in part.tracks.get(track, ())
            for subject in (part.subjects if block.subjects is None else block.subjects)
            for condition in block.conditions
            for method in block.methods
        ]


class Suite(AnySuite):
    """A whole suite on one data set, in one profile. Everything that moves a score stands here."""

    dataset: str
    written_for: str = ""  # the data set that the file names, when it is run on another one
    folder: str | None = None  # where the images of an `imagefolder` or `imagenet` data set lie
    seeds: list[int] = Field(min_length=1)
    batch_size: int = Field(default=64, ge=1)
    precision: Literal["fp32"] = "fp32"
    timeout_s: float = Field(default=3600, gt=0)
    subjects: list[str] = []
    referee: str | dict[str, str] | None = None  # the judge, or subject → judge with "default"
    panel: list[str] | dict[str, list[str]] = []  # further judges (visualization), or subject → judges with "default"
    referee_seed: int = 1000  # of the panel too
    gates: dict[str, float] = {}  # subject → clean accuracy below which it is refused
    override_gates: bool = False  # go on below the gate; the boards say so
    recipes: dict[str, RecipeSpec] = {}  # network → recipe, with "default"
    real_images: int = Field(default=1000, ge=2)  # reference images of realism and diversity metrics
    tracks: dict[str, Annotated[list[Block], BeforeValidator(_as_list)]]

    @property
    def parts(self) -> "tuple[Suite, ...]":
        """Itself."""
        return (self,)

    def judge_of(self, subject: str) -> str | None:
        """Name of the referee for a subject."""
        if isinstance(self.referee, dict):
            return self.referee.get(subject, self.referee.get("default"))
        return self.referee

    def panel_of(self, subject: str) -> tuple[str, ...]:
        """Names of the networks that judge beside the referee: those listed, without the subject itself."""
        listed = self.panel
        if isinstance(listed, dict):
            listed = listed.get(subject, listed.get("default", []))
        return tuple(name for name in listed if name != subject)

    def recipe_of(self, network: str) -> RecipeSpec:
        """How the network is trained; a ``SetupError`` when the suite does not say."""
        recipe = self.recipes.get(network, self.recipes.get("default"))
        if recipe is None:
            raise SetupError(f"suite {self.suite} has no recipe for {network}", "add it under recipes, or a default")
        return recipe


class JointSuite(AnySuite):
    """A suite on several data sets, in one profile: one set of boards, on which rows of each are ranked apart."""

    datasets: dict[str, Suite]

    @property
    def parts(self) -> tuple[Suite, ...]:
        """In the order of the file."""
        return tuple(self.datasets.values())


class SubjectName(BaseModel):
    """The parts of ``network.dataset.training[.variant]``, or the name of public weights."""

    model_config = ConfigDict(frozen=True)

    full: str
    network: str = ""
    dataset: str = ""
    training: str = ""
    variant: str = "default"

    @property
    def is_trained_here(self) -> bool:
        """Whether a training cell makes it (otherwise its weights come from a file)."""
        return bool(self.training)

    @classmethod
    def parse(cls, text: str) -> "SubjectName":
        """Check every part's name; a ``SetupError`` with the nearest names otherwise."""
        parts = text.split(".")
        if len(parts) in (3, 4) and parts[1] in dataset_names():
            network_card(parts[0])
            registry.entry("method", f"training/{parts[2]}")
            keys = ("network", "dataset", "training", "variant")
            return cls(full=text, **dict(zip(keys, parts, strict=False)))
        public_card(text)
        return cls(full=text)


def suite_names() -> list[str]:
    """The suites that come with the project."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def suite_summary(name: str) -> str:
    """The description of a built-in suite, and its profiles."""
    text = yaml.safe_load(suite_path(name).read_text(encoding="utf-8"))
    return f"{text.get('description', '')} ({', '.join(text.get('profiles', ['cpu']))})"


def suite_path(name_or_path: str) -> Path:
    """The file of a built-in suite, or of one's own (a path that ends in .yaml or .yml)."""
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise SetupError(f"suite file {path} does not exist", f"built-in suites: {', '.join(suite_names())}")
        return path
    if name_or_path not in suite_names():
        raise registry.unknown("suite", name_or_path, suite_names())
    return SUITES / f"{name_or_path}.yaml"


def load_suite(
    name_or_path: str, profile: str = "cpu", changes: Mapping[str, Any] | None = None, dataset: str | None = None
) -> AnySuite:
    """Read a suite, take the profile's values over the common ones, then ``changes``, and check every name.

    Of a suite on several data sets, what the file says of one stands over what is common, the profile's included.

    Args:
        dataset: run it on this data set instead of its own; its gates were set for its own and only mark the boards.

    Raises:
        SetupError: anything that is not as it should be, with its place in the file.
    """
    path = suite_path(name_or_path)
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"{path.name} is not YAML: {error}") from error
    if not isinstance(text, dict):
        raise SetupError(
            f"{path.name} should be a mapping with suite, version, dataset, …", "see bench/suites/smoke.yaml"
        )
    profiles = text.pop("profiles", {"cpu": {}})
    if not isinstance(profiles, dict) or profile not in profiles:
        known = list(profiles) if isinstance(profiles, dict) else []
        raise registry.unknown("profile", profile, known)
    merged = _merge(_merge(text, profiles[profile] or {}), {"profile": profile})
    if ("dataset" in merged) == ("datasets" in merged):
        found = "names both" if "dataset" in merged else "names neither"
        raise SetupError(
            f"{path.name} should name its dataset, or several datasets; it {found}",
            "dataset: NAME, or datasets: {NAME: what differs there, …}",
        )
    kind: type[AnySuite] = JointSuite if "datasets" in merged else Suite
    if kind is Suite:
        merged = _on(_merge(merged, changes or {}), dataset)
    elif dataset is None:
        merged = _on_each(merged, changes or {}, path.name)
    else:
        raise SetupError(
            f"{path.name} holds several data sets: it cannot be run on {dataset} instead",
            "leave --dataset out; --only 'NAME/*' runs one of its own",
        )
    try:
        suite = kind.model_validate(merged)
    except ValidationError as error:
        raise _readable(error, path.name, kind) from error
    check_names(suite)
    return suite


def check_names(suite: AnySuite) -> None:
    """Every track, data set, network, method, variant form, metric and gate names something that exists."""
    for name in (suite.suite, suite.profile):
        if not SAFE_NAME.fullmatch(name):
            raise SetupError(f"{name!r} is not a name", "use letters, digits, '_', '-' and '.', no path separators")
    for part in suite.parts:
        try:
            _check_part(part)
        except SetupError as problem:
            if part is suite:
                raise
            raise SetupError(f"on {part.dataset}: {problem}") from problem
    for track in [*suite.primary, *suite.notes, *(claim.track for claim in suite.claims)]:
        if track not in suite.track_names:
            raise registry.unknown("track of this suite", track, suite.track_names)
    for metric in suite.primary.values():
        registry.entry("metric", metric)
    for claim in suite.claims:
        _check_claim(suite, claim)
    judged = Counter((claim.track, claim.claim) for claim in suite.claims if claim.verdict is not None)
    for (_, words), count in judged.items():
        if count > 1:
            raise SetupError(f"{count} verdicts are on the claim {words!r}", "boards tell them by it: word each anew")


def _check_part(suite: Suite) -> None:
    card = dataset_card(suite.dataset)
    for subject in [*suite.subjects, *_judges(suite)]:
        parsed = SubjectName.parse(subject)
        if parsed.is_trained_here:
            suite.recipe_of(parsed.network)
            if parsed.dataset != suite.dataset:
                raise SetupError(f"subject {subject} was trained on {parsed.dataset}, the suite is on {suite.dataset}")
    for subject, panel in _panels(suite).items():
        if subject not in (known := [*suite.subjects, "default"]):
            raise registry.unknown("subject with a panel", subject, known)
        if len(set(panel)) != len(panel):
            raise SetupError(f"suite {suite.suite} names a judge of a panel twice: {panel}", "name each once")
        if subject in panel:
            raise SetupError(f"{subject} would judge itself", "leave it out of its own panel")
    for network, recipe in suite.recipes.items():
        _check_start(network, recipe.start)
    for gated in suite.gates:
        if gated not in (known := [*suite.subjects, *sorted(_judges(suite))]):
            raise registry.unknown("subject with a gate", gated, dict.fromkeys(known))
    if len(set(suite.seeds)) != len(suite.seeds):
        raise SetupError(f"suite {suite.suite} names a seed twice: {suite.seeds}", "name each once")
    for track, blocks in suite.tracks.items():
        if track not in TRACKS:
            raise registry.unknown("track", track, TRACKS)
        for block in blocks:
            _check_block(suite, track, block, card.num_classes)


def _check_start(network: str, start: str | StartSpec | None) -> None:
    """Public weights, or a method of training, of that name; whether they fit the network is known once it is built."""
    if isinstance(start, StartSpec):
        registry.entry("method", f"training/{start.method}")
    elif start is not None and SubjectName.parse(start).is_trained_here:
        raise SetupError(
            f"recipe of {network}: start should be public weights or a training, got the subject {start}",
            "start: {method: sgd, epochs: …} trains the network first",
        )


def _check_claim(suite: AnySuite, claim: ClaimSpec) -> None:
    claim.check(suite.rows(claim.track))
    taken = [block.metrics for block in suite.blocks(claim.track)]
    for stem in claim.stems:
        if not any(metrics is None or stem in metrics for metrics in taken):
            known = dict.fromkeys(name for metrics in taken for name in metrics or ())
            raise registry.unknown(f"metric of the {claim.track} track of this suite", stem, known)


def _check_block(suite: Suite, track: str, block: Block, classes: int) -> None:
    for spec in block.methods:
        registry.entry("method", f"{track}/{spec.name}")
        if not SAFE_NAME.fullmatch(spec.variant):
            raise SetupError(f"variant {spec.variant!r} of {track}/{spec.name} is not a name", "letters, digits, '_'")
        if spec.settings and spec.variant == "default":
            raise SetupError(
                f"{track}/{spec.name} has settings but no variant name",
                "give its row a name of yours: {name: …, variant: NAME, settings: {…}}",
            )
    for metric in block.metrics or ():
        registry.entry("metric", metric)
    for name in block.subjects or ():
        if track == "training":
            network_card(name)
            suite.recipe_of(name)
        elif name not in suite.subjects:
            raise registry.unknown("subject of this suite", name, suite.subjects)
    for condition in block.conditions:
        _check_condition(track, condition)
    if classes and (track == "inversion" or (track == "visualization" and "class" in block.conditions)):
        for target in block.targets or ():
            if not 0 <= target < classes:
                raise SetupError(f"{track}: class {target} is out of range", f"{suite.dataset} has 0 to {classes - 1}")


def _check_condition(track: str, condition: str) -> None:
    """The condition's form; whether a tap exists is known once the network is built."""
    match track:
        case "training" | "inversion" | "attribution":
            if condition:
                raise SetupError(f"the {track} track has no conditions, found {condition!r}", "leave conditions out")
        case "reconstruction":
            if not condition:
                raise SetupError(
                    "the reconstruction track needs conditions: the taps to invert", "conditions: [penultimate]"
                )
        case "visualization":
            if condition != "class" and not condition.startswith("channel_"):
                raise SetupError(f"visualization has no condition {condition!r}", "write class, or channel_TAP")
        case "adversarial":
            _check_bound(condition)
        case "detection":
            split_attacks(condition)


def split_attacks(condition: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The attack that a detector faces, and the one it has learned from, each with its bound.

    ``pgd_linf_8_255`` → the same twice; ``deepfool_none_after_pgd_linf_8_255`` → DeepFool, after PGD.
    """
    faced, after, known = condition.partition("_after_")
    if after and faced == known:
        raise SetupError(f"detection condition {condition!r} names one attack twice", f"write {faced}")
    return split_attack(faced), split_attack(known if after else faced)


def split_attack(text: str) -> tuple[str, str]:
    """``pgd_linf_8_255`` → ("pgd", "linf_8_255"): an attack and its bound."""
    match = re.fullmatch(r"(\w+?)_((?:linf|l2)_\d+_\d+|none)", text)
    if not match:
        raise SetupError(
            f"{text!r} in a detection condition is not an attack with its bound",
            "write for example pgd_linf_8_255, or deepfool_none_after_pgd_linf_8_255",
        )
    registry.entry("method", f"adversarial/{match[1]}")
    _check_bound(match[2])
    return match[1], match[2]


def _check_bound(text: str) -> None:
    """Intensities go from 0 to 1: a bound above is one of bytes, written without its 255."""
    bound = Bound.parse(text)
    if bound.norm == "linf" and bound.size > 1:
        raise SetupError(f"bound {text!r} is {bound.size:g}, intensities go from 0 to 1", "write linf_8_255 for 8/255")


def _judges(suite: Suite) -> set[str]:
    """Every referee, and everyone on a panel."""
    referees = suite.referee.values() if isinstance(suite.referee, dict) else [suite.referee] if suite.referee else []
    return {*referees, *(name for panel in _panels(suite).values() for name in panel)}


def _panels(suite: Suite) -> Mapping[str, list[str]]:
    return suite.panel if isinstance(suite.panel, dict) else {"default": suite.panel}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``: mappings are joined, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _on(text: dict[str, Any], dataset: str | None) -> dict[str, Any]:
    """The suite on its own data set, or on another one."""
    own = text["dataset"]
    if dataset is None or dataset == own or not isinstance(own, str):
        return text
    dataset_card(dataset)
    named: dict[str, Any] = _retarget(text, own, dataset)
    return named | {"dataset": dataset, "written_for": own, "override_gates": True}


def _on_each(text: Mapping[str, Any], changes: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The common fields, and for each of its data sets a whole suite: what it says itself stands over what is common.

    Raises:
        SetupError: there is no data set, or one says what has to be the same on all.
    """
    every = text["datasets"]
    if not isinstance(every, Mapping) or not every:
        raise SetupError(f"{file}: datasets should be a mapping", "datasets: {NAME: what differs there, …}")
    common = {key: value for key, value in text.items() if key != "datasets"}
    shared = {key: value for key, value in common.items() if key in AnySuite.model_fields}
    parts = {}
    for name, own in every.items():
        if not isinstance(own, Mapping | None):
            raise SetupError(f"{file}: datasets.{name} should be a mapping, got {own!r}", "write what differs there")
        for key in own or {}:
            if key in AnySuite.model_fields or key == "dataset":
                raise SetupError(f"{file}: datasets.{name}.{key} is the same on all data sets", "write it above them")
        parts[name] = _merge(_merge(common, own or {}), changes) | {"dataset": name}
    return shared | {"datasets": parts}


def _retarget(value: Any, old: str, new: str) -> Any:
    """``network.OLD.training`` → ``network.NEW.training`` wherever a subject is named, keys included."""
    if isinstance(value, Mapping):
        return {_retarget(key, old, new): _retarget(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_retarget(item, old, new) for item in value]
    parts = value.split(".") if isinstance(value, str) else []
    return ".".join([parts[0], new, *parts[2:]]) if len(parts) in (3, 4) and parts[1] == old else value


def _readable(error: ValidationError, file: str, kind: type[BaseModel]) -> SetupError:
    """The first of pydantic's complaints, with the keys that there are for an unknown one.

    Unknown keys come first: what is missing elsewhere is what one of them was meant to be.
    """
    every = error.errors()
    first = next((one for one in every if one["type"] == "extra_forbidden"), every[0])
    loc = first["loc"]
    place = ".".join(str(part) for part in loc if not str(part).endswith("]"))  # "[key]", and a union's "list[str]"
    if first["type"] == "extra_forbidden":
        shared = {*AnySuite.model_fields, "dataset", "written_for"} if loc[0] == "datasets" and len(loc) == 3 else set()
        known = [name for name in _model_at(kind, loc[:-1]).model_fields if name not in shared]
        return SetupError(f"{file}: {place}: {registry.unknown('key', str(loc[-1]), known)}")
    said = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", first["msg"])
    found = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return SetupError(f"{file}: {place}: {'as a name: ' if '[key]' in loc else ''}{said}{found}")


def _model_at(model: type[BaseModel], place: Iterable[int | str]) -> type[BaseModel]:
    """The model that a place in a file is read by; numbers and names of the user's own lead nowhere."""
    for part in place:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[str(part)].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
