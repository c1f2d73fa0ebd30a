"""Known answers, computed anew by the code that is about to measure: every golden value that needs no download.

A check is one small function below, marked ``@check(name, what is expected)``; there is no other list of them. Normal
sets come from ``numpy.random.RandomState(seed)``, the first set drawn first.
"""

import hashlib
import importlib.metadata
import json
import math
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench import registry
from bench.contract import TRACKS, AdversarialTask, Bound, Undefined, Unsupported
from bench.execute import environment
from bench.record import Store, write_atomic
from bench.zoo.classifier import Classifier

Found = float | Sequence[float] | Mapping[str, float]
Compute = Callable[[torch.device], Found]
LIBRARIES = ("foolbox", "fvcore", "scikit-learn", "zennit")  # besides those that every record names


# ---- what a check is, and how it ended -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Near:
    """These numbers, each to within the tolerance; a single one stands for any number of findings."""

    numbers: tuple[float, ...]
    tolerance: float

    def fits(self, found: Sequence[float]) -> bool:
        """Whether the findings are as expected."""
        wanted = self.numbers * (len(found) if len(self.numbers) == 1 else 1)
        return len(wanted) == len(found) > 0 and all(
            abs(one - other) <= self.tolerance for one, other in zip(wanted, found, strict=True)
        )

    def __str__(self) -> str:
        return _text(self.numbers) + (f" ± {self.tolerance:g}".replace("e-0", "e-") if self.tolerance else "")


@dataclass(frozen=True)
class Between:
    """Any numbers from ``low`` to ``high``."""

    low: float
    high: float

    def fits(self, found: Sequence[float]) -> bool:
        """Whether the findings are as expected."""
        return len(found) > 0 and all(self.low <= one <= self.high for one in found)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Check:
    """One known answer.

    Args:
        compute: makes it anew on a device; a name → number mapping lets a failure say whose number is wrong.
    """

    name: str
    expected: Near | Between
    compute: Compute


@dataclass(frozen=True)
class Finding:
    """How one check ended; ``found`` is the reason where there is no number."""

    name: str
    expected: str
    found: str
    status: Literal["ok", "fail", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """How the selftest ended.

    Args:
        known: from an earlier run on the same code, libraries and device.
    """

    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0
    known: bool = False

    @property
    def stamp(self) -> Literal["pass", "fail", "skipped"]:
        """What records say of it: ``pass`` when no check failed and at least one could be done."""
        statuses = {finding.status for finding in self.findings}
        return "fail" if "fail" in statuses else "pass" if "ok" in statuses else "skipped"

    @property
    def failures(self) -> list[Finding]:
        """The checks that failed."""
        return [finding for finding in self.findings if finding.status == "fail"]

    def __str__(self) -> str:
        total, skipped = len(self.findings), sum(finding.status == "skipped" for finding in self.findings)
        left_out = f", {skipped} of {total} skipped" if skipped else ""
        took = "as before" if self.known else f"{self.seconds:.0f} s"
        if self.failures:
            return f"{len(self.failures)} of {total} checks FAIL{left_out} ({took})"
        if self.stamp == "skipped":
            return "skipped"
        return f"pass{left_out} ({took})" if skipped else f"{total} checks pass ({took})"


CHECKS: list[Check] = []


def check(name: str, expected: Near | Between) -> Callable[[Compute], Compute]:
    """Put a function into the table of checks."""

    def mark(compute: Compute) -> Compute:
        CHECKS.append(Check(name, expected, compute))
        return compute

    return mark


def near(*numbers: float, tolerance: float = 1e-9) -> Near:
    """Expect these numbers."""
    return Near(numbers, tolerance)


# ---- doing them ----------------------------------------------------------------------------------------------------


def selftest(device: torch.device) -> Outcome:
    """Every check on the device; generators, threads and gradients are left as they were."""
    started = time.perf_counter()
    findings = tuple(_find(one, device) for one in CHECKS)
    return Outcome(findings, time.perf_counter() - started)


def ensure(store: Store, device: torch.device) -> Outcome:
    """The selftest's outcome for this code, these libraries and this device; done once a store, until it passes.

    Only a pass is remembered: what failed may have been mended outside of all that is known here.
    """
    path, key = store.root / "selftest.json", _key(device)
    remembered = _remembered(path)
    if key in remembered:
        return Outcome(tuple(Finding(**finding) for finding in remembered[key]), known=True)
    outcome = selftest(device)
    if outcome.stamp == "pass":
        remembered[key] = [asdict(finding) for finding in outcome.findings]
        write_atomic(path, (json.dumps(remembered, indent=1, ensure_ascii=False) + "\n").encode())
    return outcome


def _find(one: Check, device: torch.device) -> Finding:
    expected = str(one.expected)
    try:
        with _undisturbed(device):
            found = one.compute(device)
    except Exception as problem:  # a check that crashes is one that fails
        missing = _missing(problem)
        if missing:
            return Finding(one.name, expected, missing, "skipped")
        return Finding(one.name, expected, f"{type(problem).__name__}: {problem}".split("\n")[0][:200], "fail")
    numbers = _numbers(found)
    if one.expected.fits(numbers):
        shown = dict.fromkeys(numbers) if isinstance(found, Mapping) else numbers  # equal ones once
        return Finding(one.name, expected, _text(shown), "ok")
    named = found.items() if isinstance(found, Mapping) else ()
    wrong = [f"{name} {number:.10g}" for name, number in named if not one.expected.fits([number])]
    return Finding(one.name, expected, ", ".join(wrong) or _text(numbers), "fail")


def _numbers(found: Found) -> list[float]:
    if isinstance(found, Mapping):
        return list(found.values())
    return list(found) if isinstance(found, Sequence) else [found]


def _missing(problem: Exception) -> str:
    """What optional library the check would need; empty for any other problem."""
    if isinstance(problem, Unsupported):
        return str(problem)
    library = (problem.name or "").split(".")[0] if isinstance(problem, ModuleNotFoundError) else ""
    return f"needs {library}" if library and library not in registry.PROJECT_PACKAGES else ""


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """What is process-wide is afterwards as it was before; libraries' warnings stay off the screen."""
    threads, has_gradients, dtype = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - kept, not used
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        torch.set_num_threads(1)  # the same numbers on every machine, and no quarrel over the cores
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_grad_enabled(has_gradients)
            torch.set_default_dtype(dtype)
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _remembered(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Findings of earlier passes by key; a file that cannot be read holds none."""
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _key(device: torch.device) -> str:
    """Digest of all that the outcome depends on: source of what is checked, libraries, device."""
    parts = [Path(__file__).read_text(encoding="utf-8")]
    parts += [registry.source_digest("metric", name) for name in registry.metric_names() if _is_ours("metric", name)]
    parts += [registry.source_digest("method", name) for name in _attacks()]
    parts += [f"{name} {version}" for name, version in environment.conditions(device).items()]
    parts += [f"{name} {_version(name)}" for name in LIBRARIES]
    return hashlib.sha256(repr((str(device), parts)).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _text(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.10g}" for number in numbers)


# ---- what checks share ---------------------------------------------------------------------------------------------


def _measure(stem: str, **roles: Any) -> float:
    """A registered metric's value, as the harness would take it: by role names, the mean where it is per image."""
    value = registry.load_metric(stem)(**roles)
    if isinstance(value, Undefined):
        raise ValueError(f"{stem} is undefined: {value.reason}")
    return float(value.mean())


def _two_sets(features: Tensor, real: Tensor, **settings: Any) -> dict[str, Any]:
    return {"referee_features": features, "real_referee_features": real, **settings}


def _normal_sets(device: torch.device, count: int, dimensions: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets of (count, dimensions) float64 standard normal numbers, in the order in which they were drawn."""
    drawn = np.random.RandomState(seed).randn(2, count, dimensions)
    first, second = torch.from_numpy(drawn).to(device)
    return first, second


NEIGHBOURS = ("precision", "recall", "density", "coverage")


def _neighbours(features: Tensor, real: Tensor, k: int) -> list[float]:
    return [_measure(stem, **_two_sets(features, real, k=k)) for stem in NEIGHBOURS]


def _camera(device: torch.device) -> dict[str, Tensor]:
    """scikit-image's camera man and a copy with noise of sigma 20, both rounded to bytes, as a metric is given them."""
    clean, noisy = (torch.from_numpy(image).to(device)[None, None].double() / 255 for image in _camera_bytes())
    return {"generated": noisy, "real": clean}


def _camera_bytes() -> tuple[Any, Any]:
    from skimage.data import camera

    clean = camera()
    noise = np.random.RandomState(5).normal(0, 20, clean.shape)
    return clean, np.clip(clean + noise, 0, 255).astype(np.uint8)


# ---- distances between sets ----------------------------------------------------------------------------------------


def _frechet_of_shifted(dimensions: int, shift: float, device: torch.device) -> float:
    from metrics._moments import frechet_from_statistics

    mean = torch.zeros(dimensions, dtype=torch.float64, device=device)
    covariance = torch.eye(dimensions, dtype=torch.float64, device=device)
    return float(frechet_from_statistics(mean, covariance, mean + shift, covariance))


@check("Fréchet, means 0.5 apart in 64-d", near(16.0))
def frechet_64(device: torch.device) -> Found:
    """Equal unit covariances leave the squared distance of the means, 64 · 0.5²."""
    return _frechet_of_shifted(64, 0.5, device)


@check("Fréchet, means 1 apart in 4-d", near(4.0))
def frechet_4(device: torch.device) -> Found:
    """4 · 1²."""
    return _frechet_of_shifted(4, 1.0, device)


@check("Fréchet of a set with itself", near(0.0))
def frechet_itself(device: torch.device) -> Found:
    """No distance."""
    features, _ = _normal_sets(device, 500, 64)
    return _measure("frechet_referee_penultimate", **_two_sets(features, features))


@check("kernel distance of a set with itself", near(-0.0279646151))
def kernel_itself(device: torch.device) -> Found:
    """The unbiased estimate leaves out i = j within a set, but not across: 2/n · (mean off diagonal − mean on it)."""
    features, _ = _normal_sets(device, 500, 64)
    return _measure("kernel_referee_penultimate", **_two_sets(features, features))


@check("PRDC of normal sets, k = 5", near(0.744, 0.740, 1.1352, 0.974))
def neighbours_of_normal_sets(device: torch.device) -> Found:
    """Precision, recall, density, coverage. The set drawn first is real: exchanged, the first two change places."""
    real, features = _normal_sets(device, 500, 64)
    return _neighbours(features, real, 5)


@check("PRDC of points on a line, k = 1", near(0.75, 1.0, 1.5, 1.0))
def neighbours_on_a_line(device: torch.device) -> Found:
    """Small enough to be drawn on paper."""
    real, features = torch.tensor([[[0.0], [1.0], [2.0], [3.0]], [[0.1], [1.1], [2.1], [10.0]]], device=device)
    return _neighbours(features, real, 1)


# ---- diversity -----------------------------------------------------------------------------------------------------


@check("Vendi of two alike and one other", near(2.1573004833739833))
def vendi_of_a_kernel(device: torch.device) -> Found:
    """The rows of the kernel's Cholesky factor have unit length and just this kernel."""
    kernel = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64, device=device)
    return _measure("vendi_referee_cosine", referee_features=torch.linalg.cholesky(kernel))


@check("Vendi of 8 equal, 8 orthogonal", near(1.0, 8.0))
def vendi_extremes(device: torch.device) -> Found:
    """One item, and as many as there are."""
    sets = torch.ones(8, 8, device=device), torch.eye(8, device=device)
    return [_measure("vendi_referee_cosine", referee_features=features) for features in sets]


# ---- pairs of images -----------------------------------------------------------------------------------------------


@check("PSNR of camera and noise", near(22.40935, tolerance=5e-6))
def psnr_of_camera(device: torch.device) -> Found:
    """Noise of sigma 20, clipped and rounded to bytes."""
    return _measure("psnr", **_camera(device))


@check("SSIM of camera and noise", near(0.357964, tolerance=5e-7))
def ssim_of_camera(device: torch.device) -> Found:
    """Sample covariance off."""
    return _measure("ssim_gauss11_s15", **_camera(device))


@check("the same, scikit-image's default", near(0.3674518, tolerance=5e-8))
def ssim_by_default(device: torch.device) -> Found:
    """Not ours: when this moves, the library or the picture did."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(*_camera_bytes(), data_range=255))


# ---- logits, scores and maps ---------------------------------------------------------------------------------------


@check("AUROC and AUPR of four scores", near(0.75, 5 / 6))
def detection(device: torch.device) -> Found:
    """Three of the four pairs stand right; precision is 1 at the first attacked image and 2/3 at the second."""
    scores = torch.tensor([0.1, 0.4, 0.35, 0.8], device=device)
    attacked = torch.tensor([False, False, True, True], device=device)
    return [_measure(stem, scores=scores, attacked=attacked) for stem in ("auroc", "aupr")]


@check("NLL of a guess among 10", near(math.log(10)))
def nll_of_a_guess(device: torch.device) -> Found:
    """All ten are equally likely."""
    return _measure("nll", **_logits(torch.zeros(4, 10), [0, 3, 5, 9], device))


@check("ECE, 80 % sure and half right", near(0.3, tolerance=1e-7))
def calibration(device: torch.device) -> Found:
    """|0.5 − 0.8|."""
    return _measure("ece_15", **_logits(torch.tensor([0.8, 0.2]).log().repeat(4, 1), [0, 0, 1, 1], device))


def _logits(logits: Tensor, labels: list[int], device: torch.device) -> dict[str, Tensor]:
    return {"target_logits": logits.to(device), "labels": torch.tensor(labels, device=device)}


@check("deletion, what counts first, last", near(0.3, 0.7, tolerance=1e-6))
def deletion(device: torch.device) -> Found:
    """The probability falls evenly from .9 to .1 with the bright half of the picture, and not with the dark one."""
    bright = torch.zeros(1, 1, 8, 7, device=device)
    bright[:, :, :4] = 1

    def target(images: Tensor) -> Tensor:
        share = 0.1 + 1.6 * images.double().mean((1, 2, 3))
        return torch.stack([share, 1 - share], dim=1).log()

    first = torch.zeros(1, dtype=torch.int64, device=device)
    maps = bright[:, 0], 1 - bright[:, 0]
    return [_measure("deletion_auc", maps=one, real=bright, labels=first, target=target) for one in maps]


@check("Spearman of maps, two swapped", near(0.8))
def rank_correlation(device: torch.device) -> Found:
    """1 − 6 · (1² + 1²) / (4 · (4² − 1)); the sign of a map does not count."""
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], device=device)
    randomised = torch.tensor([[[-1.0, 30.0], [20.0, -40.0]]], device=device)
    return _measure("randomisation_rank_correlation", maps=maps, randomised_maps=randomised)


# ---- networks ------------------------------------------------------------------------------------------------------


@check("GMACs of resnet18, deit_tiny", near(1.819065856, 1.2584112))
def multiply_adds(device: torch.device) -> Found:
    """At 224 px, fused attention off: counters do not see into it."""
    import timm

    from metrics._cost import count_gmacs

    found = []
    for name in ("resnet18", "deit_tiny_patch16_224"):
        network = timm.create_model(name, pretrained=False).eval()
        for module in network.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
        found.append(float(count_gmacs(network, (3, 224, 224))))
    return found


@check("LRP relevance kept, canonizer", Between(0.8, 1.2))
def relevance_is_kept(device: torch.device) -> Found:
    """Sum over the pixels by what it started with, torchvision's resnet18 with random weights."""
    from zennit.torchvision import ResNetCanonizer

    return _relevance_by_start(device, canonizers=[ResNetCanonizer()])


@check("LRP relevance lost, no canonizer", Between(100.0, math.inf))
def relevance_is_lost(device: torch.device) -> Found:
    """Or the check above would say nothing."""
    return _relevance_by_start(device, canonizers=[])


def _relevance_by_start(device: torch.device, canonizers: list[Any]) -> dict[str, float]:
    from torchvision.models import resnet18
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat

    composites = {
        "EpsilonPlusFlat": EpsilonPlusFlat(canonizers=canonizers),
        "EpsilonGammaBox": EpsilonGammaBox(low=-4.0, high=4.0, canonizers=canonizers),
    }
    network = resnet18(weights=None).eval().to(device)
    images = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)).to(device)
    first = torch.eye(1000, device=device)[:1]
    found = {}
    for name, composite in composites.items():
        with torch.enable_grad(), Gradient(network, composite) as attributor:
            logits, relevance = attributor(images, lambda output: output * first)
        found[name] = float(relevance.double().sum() / logits[0, 0])
    return found


# ---- attacks -------------------------------------------------------------------------------------------------------


@check("pixels changed by bound-0 attacks", near(0.0, tolerance=0.0))
def attacks_without_room(device: torch.device) -> Found:
    """The image back, bit for bit, under both norms."""
    changed = {}
    for name in _attacks():
        for bound in (Bound("linf", 0.0), Bound("l2", 0.0)):
            count = _pixels_changed(name, bound, device)
            if count is not None:
                changed[f"{name.split('/')[1]} ({bound.norm})"] = float(count)
    return changed


def _attacks() -> list[str]:
    return [name for name in registry.method_names("adversarial") if _is_ours("method", name)]


def _is_ours(kind: Literal["method", "metric"], name: str) -> bool:
    return registry.entry(kind, name).origin == "built-in"


def _pixels_changed(name: str, bound: Bound, device: torch.device) -> int | None:
    """By an attack on a small random network; None where the attack does not take such a bound."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 4))
    card: dict[str, Any] = {"image_shape": (3, 8, 8), "num_classes": 4, "mean": [0.5] * 3, "std": [0.5] * 3}
    model = Classifier(network, name="small", taps={}, **card).to(device)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = 0.0, 1.0  # the ends of the range too
    with torch.no_grad():
        labels = model(images).argmax(1)
    places = torch.arange(4, device=device)
    known = {"references": images, "reference_labels": labels}
    task: Any = AdversarialTask(
        model=model, images=images, labels=labels, bound=bound, places=places, seed=0, budget=40, **known
    )
    attack = registry.make_method(name)
    if hasattr(attack, "why_not") and attack.why_not(task):
        return None
    if hasattr(attack, "fit"):
        task = task.replace(fitted=attack.fit(task))
    answer = getattr(attack, TRACKS["adversarial"].verb)(task)
    return int((answer.view(torch.int32) != images.view(torch.int32)).sum())
