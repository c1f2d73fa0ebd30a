"""Metrics put to the test: real images degraded in a known way must come out in the known order, and cheats last.

The images are those of the suites `sanity` and `sanity_cifar10`, degraded by the same methods. Here they are measured
without a suite: on the embedded digits and, where the data lie, on CIFAR-10 with public networks.
"""

import inspect
import os
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import registry
from bench.contract import InversionTask, Recipe, ReconstructionTask, TrainingTask, Undefined
from bench.execute.runner import index_of
from bench.ops import fit
from bench.plan.suite import load_suite
from bench.zoo import networks, weights
from bench.zoo.classifier import Classifier
from bench.zoo.datasets import open_dataset
from bench.zoo.datasets.dataset import Dataset
from tests.execute import tiny
from tests.right import making

DATA = Path(os.environ.get("GLASSBENCH_DATA", "absent"))
needs_cifar = pytest.mark.skipif(
    not all((DATA / part).is_dir() for part in ("cifar10", "weights/cifar10")),
    reason="needs GLASSBENCH_DATA with cifar10/ and weights/cifar10/",
)
every_world = pytest.mark.parametrize("world", ["digits", pytest.param("cifar10", marks=needs_cifar)])
CLASSES, PER_CLASS = 10, 15  # as many images a class are shown as judge


# ---- what is expected ----------------------------------------------------------------------------------------------

LADDERS = {
    "blur": ("default", "blur_1", "blur_2", "blur_4"),
    "noise": ("default", "noise_05", "noise_10", "noise_20"),
    "modes": ("default", "modes_10", "modes_2", "repeated"),
}
UP, DOWN = 1, -1
SLACK = 0.1  # of the way from the first rung to the last: so far a rung may step back, with so few images

PAIRED = {
    "psnr": DOWN,
    "rmse": UP,
    "ssim_gauss11_s15": DOWN,
    "feature_error": UP,
    "referee_feature_distance": UP,
    "same_top1": DOWN,
}
REALISM = {
    "frechet_referee_penultimate": UP,
    "kernel_referee_penultimate": UP,
    "two_sample_accuracy": UP,
    "coverage": DOWN,
    "recall": DOWN,
    "referee_agreement": DOWN,
}
STEP_BY_STEP: dict[tuple[str, str], dict[str, int]] = {
    ("reconstruction", "blur"): PAIRED,
    ("reconstruction", "noise"): PAIRED,
    ("inversion", "blur"): REALISM | {"high_frequency_ratio": DOWN, "total_variation_ratio": DOWN},
    ("inversion", "noise"): REALISM
    | {"density": DOWN, "matched_ssim": DOWN, "high_frequency_ratio": UP, "total_variation_ratio": UP},
    ("inversion", "modes"): {
        "recall": DOWN,
        "coverage": DOWN,
        "vendi_referee_cosine": DOWN,
        "vendi_ratio": DOWN,
        "same_class_rmse": DOWN,
        "same_class_rmse_ratio": DOWN,
        "same_class_ssim": DOWN,
        "same_class_ssim_ratio": DOWN,
        "same_class_cosine_referee": DOWN,
        "same_class_cosine_ratio": DOWN,
        "frechet_referee_penultimate": UP,
        "kernel_referee_penultimate": UP,
        "two_sample_accuracy": UP,
    },
}
# Blur draws images together, into the balls around the real ones, and makes a network unsure: between the first rung
# and the last these may go either way.
AT_THE_END: dict[tuple[str, str], dict[str, int]] = {
    ("inversion", "blur"): {
        "precision": DOWN,
        "density": DOWN,
        "vendi_referee_cosine": DOWN,
        "vendi_ratio": DOWN,
        "kl_to_wanted": UP,
        "worst_class_accuracy": DOWN,
    },
    ("inversion", "noise"): {"precision": DOWN, "vendi_referee_cosine": DOWN, "vendi_ratio": DOWN, "kl_to_wanted": UP},
}


def orders(expected: dict[tuple[str, str], dict[str, int]]) -> list[Any]:
    return [
        pytest.param(track, ladder, metric, way, id=f"{track}-{ladder}-{metric}")
        for (track, ladder), ways in expected.items()
        for metric, way in ways.items()
    ]


# ---- networks and images -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Real images that are shown, real images that judge, two networks, a tap of the first."""

    subject: Classifier
    referee: Classifier
    tap: str
    own: Tensor  # (N, C, H, W), the classes in turn
    labels: Tensor
    real: Tensor
    real_labels: Tensor


@cache
def world_of(name: str) -> World:
    if name == "cifar10":
        data = open_dataset("cifar10_exact5k", DATA)
        return _world(data, *(weights.load_public(f"resnet{depth}.akamaster", DATA) for depth in (20, 32)), "layer1")
    data = open_dataset("digits", None)
    shape, card = data.card.image_shape, data.card
    perceptron = networks.untrained("mlp", num_classes=CLASSES, image_shape=shape, mean=card.mean, std=card.std, seed=0)
    subject = networks.wrap(_trained(perceptron, data), name="mlp", num_classes=CLASSES, image_shape=shape)
    referee = Classifier(
        _trained(_convolutions(), data),
        name="judge",
        image_shape=shape,
        num_classes=CLASSES,
        mean=[0],
        std=[1],
        taps={},
    )
    return _world(data, subject, referee, "hidden1")


def _world(data: Dataset, subject: Classifier, referee: Classifier, tap: str) -> World:
    labels, judging = data.labels("test"), CLASSES * PER_CLASS
    order = data.select("test", len(labels))
    left = order[judging:]
    own = torch.stack([left[labels[left] == label][:PER_CLASS] for label in range(CLASSES)], dim=1).flatten()
    own_images, real = (data.images("test", places).float() / 255 for places in (own, order[:judging]))
    return World(subject, referee, tap, own_images, labels[own], real, labels[order[:judging]])


def _convolutions() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Flatten(), nn.Linear(24 * 49, 32), nn.ReLU(), nn.Linear(32, CLASSES),
        )  # fmt: skip


def _trained(network: nn.Module, data: Dataset) -> nn.Module:
    task = TrainingTask(
        network=network,
        images=data.images("train"),
        labels=data.labels("train"),
        num_classes=CLASSES,
        recipe=Recipe(epochs=5, batch_size=64),
        seed=0,
        device=torch.device("cpu"),
    )
    return fit(task, torch.optim.AdamW(network.parameters(), lr=3e-3))


# ---- degrading and measuring ---------------------------------------------------------------------------------------


def task_of(world: World, track: str, **changes: Any) -> Any:
    common = {"model": world.subject, "places": torch.arange(len(world.own)), "seed": 0, "budget": 0} | changes
    if track == "inversion":
        return InversionTask(**common, labels=world.labels, real=world.own)
    known = {"references": world.own, "reference_labels": world.labels}  # it looks at `real` alone
    return ReconstructionTask(**common, **known, tap=world.tap, wanted=world.own, real=world.own)


@cache
def degraded(name: str, track: str, variant: str) -> Tensor:
    method, task = registry.make_method(f"{track}/degraded_images", variant), task_of(world_of(name), track)
    task = task.replace(fitted=method.fit(task))
    return method.invert(task) if track == "inversion" else method.reconstruct(task)


def _shown_by(network: Classifier, images: Tensor, tap: str) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        seen = [network.observe(part, (tap,)) for part in images.split(100)]
    return torch.cat([one.logits for one in seen]), torch.cat([one.features[tap] for one in seen])


@cache
def _of_the_originals(name: str, own: bool) -> tuple[Tensor, ...]:
    world = world_of(name)
    images = world.own if own else world.real
    return *_shown_by(world.subject, images, world.tap), *_shown_by(world.referee, images, "penultimate")


def roles_of(name: str, track: str, images: Tensor) -> dict[str, Tensor]:
    """What the harness would hand to a metric, by name."""
    world, paired = world_of(name), track == "reconstruction"
    clean_logits, wanted, clean_referee_logits, real_features = _of_the_originals(name, paired)
    logits, features = _shown_by(world.subject, images, world.tap)
    referee_logits, referee_features = _shown_by(world.referee, images, "penultimate")
    return {
        "generated": images,
        "labels": world.labels,
        "real": world.own if paired else world.real,
        "real_labels": world.labels if paired else world.real_labels,
        "target_logits": logits,
        "referee_logits": referee_logits,
        "clean_logits": clean_logits,
        "clean_referee_logits": clean_referee_logits,
        "wanted_features": wanted,
        "generated_features": features,
        "referee_features": referee_features,
        "real_referee_features": real_features,
        "wanted_distribution": F.one_hot(world.labels, CLASSES).float(),
    }


@cache
def degraded_roles(name: str, track: str, variant: str) -> dict[str, Tensor]:
    return roles_of(name, track, degraded(name, track, variant))


def roles_asked(metric: str) -> list[str]:
    every = inspect.signature(registry.load_metric(metric)).parameters.items()
    return [name for name, parameter in every if parameter.default is parameter.empty]


def reading(metric: str, roles: dict[str, Tensor], paired: bool) -> float | None:
    """The metric's value as a board would show it, None when it has none."""
    function, card = registry.load_metric(metric), registry.metric_card(metric)
    given = {name: roles[name] for name in roles_asked(metric)}
    if card.per != "class":
        answer = function(**given)
        return None if isinstance(answer, Undefined) else answer.nanmean().item()
    answers = []
    for label in range(CLASSES):
        rows = {
            name: value[roles["real_labels" if name.startswith("real") and not paired else "labels"] == label]
            for name, value in given.items()
        }
        answers.append(function(**rows))
    return None if any(isinstance(one, Undefined) for one in answers) else float(sum(answers) / CLASSES)


@cache
def value(metric: str, world: str, track: str, variant: str) -> float | None:
    return reading(metric, degraded_roles(world, track, variant), track == "reconstruction")


# ---- orders --------------------------------------------------------------------------------------------------------


def along(metric: str, world: str, track: str, ladder: str, way: int) -> list[float]:
    """The metric's values on the ladder, turned so that they should grow; the originals themselves have no PSNR."""
    assert track in registry.metric_card(metric).tracks
    steps = [value(metric, world, track, variant) for variant in LADDERS[ladder]]
    assert all(step is not None for step in steps[1:]), steps
    return [way * step for step in steps if step is not None]


@every_world
@pytest.mark.parametrize(("track", "ladder", "metric", "way"), orders(STEP_BY_STEP))
def test_what_gets_worse_step_by_step_is_measured_so(world: str, track: str, ladder: str, metric: str, way: int):
    steps = along(metric, world, track, ladder, way)
    assert steps[-1] > steps[0], steps
    allowed = SLACK * (steps[-1] - steps[0])
    assert all(after >= before - allowed for before, after in pairwise(steps)), steps


@every_world
@pytest.mark.parametrize(("track", "ladder", "metric", "way"), orders(AT_THE_END))
def test_the_worst_images_are_measured_as_worse_than_real_ones(
    world: str, track: str, ladder: str, metric: str, way: int
):
    steps = along(metric, world, track, ladder, way)
    assert steps[-1] > steps[0], steps


@every_world
def test_a_perfect_copy_has_perfect_readings_and_no_psnr(world: str):
    found = {metric: value(metric, world, "reconstruction", "default") for metric in PAIRED}
    assert found.pop("psnr") is None
    perfect = {"ssim_gauss11_s15": 1.0, "same_top1": 1.0}
    assert found == pytest.approx({metric: perfect.get(metric, 0.0) for metric in found}, abs=1e-6)


@every_world
@pytest.mark.parametrize("metric", list(PAIRED))
def test_another_real_image_is_a_worse_reconstruction_than_a_degraded_copy(world: str, metric: str):
    other, copy = (value(metric, world, "reconstruction", variant) for variant in ("other_image", "noise_10"))
    assert other is not None and copy is not None
    assert PAIRED[metric] * other > PAIRED[metric] * copy


@every_world
def test_dropping_modes_leaves_precision_and_density_as_they_were(world: str):
    for metric in ("precision", "density"):
        real, few = (value(metric, world, "inversion", variant) for variant in ("default", "modes_2"))
        assert real is not None and few is not None and few > 0.9 * real


@every_world
def test_one_image_shown_for_all_of_its_class_has_no_diversity(world: str):
    known = degraded_roles(world, "inversion", "repeated").keys()
    for metric in registry.metric_names():
        if metric.startswith(("same_class_", "vendi_")) and set(roles_asked(metric)) <= known:
            least = 1.0 if metric in ("vendi_referee_cosine", "vendi_correct") else 0.0
            found = value(metric, world, "inversion", "repeated")
            if found is None and metric.endswith("_correct"):
                continue  # of a class whose one image the subject gets wrong there is none to be diverse
            assert found == pytest.approx(least, abs=1e-5), metric


@every_world
def test_real_images_under_wrong_labels_keep_their_realism_and_lose_their_agreement(world: str):
    def both(metric: str) -> list[float | None]:
        return [value(metric, world, "inversion", variant) for variant in ("default", "shuffled_labels")]

    for metric in ("frechet_referee_penultimate", "kernel_referee_penultimate", "precision", "density"):
        right, wrong = both(metric)
        assert wrong == pytest.approx(right, rel=1e-5), metric
    agreement, covered = both("referee_agreement"), both("coverage")
    assert agreement[1] is not None and agreement[1] < 1 / CLASSES
    assert covered[0] is not None and covered[1] is not None and covered[1] < 0.2 * covered[0]


# ---- cheats --------------------------------------------------------------------------------------------------------

CHEATS = ("fooling_noise", "grey", "repeated", "modes_2", "shuffled_labels", "blur_4", "noise_20")


@cache
def fooling_noise(name: str) -> dict[str, Tensor]:
    """Noise that a network is certain of. A large one is asked only by the suites: it takes minutes."""
    method, task = registry.make_method("inversion/pixel_ascent"), task_of(world_of(name), "inversion", budget=100)
    return roles_of(name, "inversion", method.invert(task))


def of_cheat(metric: str, world: str, cheat: str) -> float:
    roles = fooling_noise(world) if cheat == "fooling_noise" else degraded_roles(world, "inversion", cheat)
    found = reading(metric, roles, paired=False)
    assert found is not None
    return found


@pytest.mark.parametrize("cheat", CHEATS)
@pytest.mark.parametrize("metric", ["coverage"])
def test_no_cheat_comes_near_real_images_in_coverage(metric: str, cheat: str):
    assert of_cheat(metric, "digits", cheat) < 0.5 * of_cheat(metric, "digits", "default")


@pytest.mark.parametrize(
    ("metric", "cheat"),
    [
        ("inversion_accuracy", "fooling_noise"),
        ("mean_confidence", "fooling_noise"),
        ("referee_agreement", "fooling_noise"),  # where subject and referee learned the same easy thing
        ("precision", "repeated"),
        ("precision", "modes_2"),
        ("same_class_rmse", "noise_20"),
        ("same_class_rmse_ratio", "noise_20"),
        ("frechet_referee_penultimate", "shuffled_labels"),
        ("kernel_referee_penultimate", "shuffled_labels"),
        ("vendi_referee_cosine", "shuffled_labels"),
    ],
)
def test_a_metric_alone_can_be_fooled(metric: str, cheat: str):
    """Not as it should be, but as it is: the cheat does as well as real images. The metrics' cards warn of it."""
    sign = -1 if registry.metric_card(metric).better == "lower" else 1
    real, found = of_cheat(metric, "digits", "default"), of_cheat(metric, "digits", cheat)
    assert sign * found >= sign * real - 1e-6 * abs(real)


def test_the_mean_of_all_images_beats_a_noisy_copy_in_pixels_and_in_nothing_else():
    def both(metric: str) -> tuple[float, float]:
        mean, noisy = (value(metric, "digits", "reconstruction", variant) for variant in ("mean_image", "noise_40"))
        assert mean is not None and noisy is not None
        return mean, noisy

    assert both("psnr")[0] > both("psnr")[1]
    assert both("rmse")[0] < both("rmse")[1]
    assert both("feature_error")[0] > both("feature_error")[1]
    assert both("same_top1")[0] < both("same_top1")[1]


# ---- the suites ----------------------------------------------------------------------------------------------------


def test_the_suites_of_fakes_rank_what_shows_real_images_and_others_do_not():
    assert {name: load_suite(name).rank_references for name in ("sanity", "sanity_cifar10", "smoke", "mnist")} == {
        "sanity": True,
        "sanity_cifar10": True,
        "smoke": False,
        "mnist": False,
    }


def test_the_index_tells_the_boards_whether_to_rank_references(tmp_path: Path):
    assert index_of(tiny.plan_of(tmp_path, rank_references=True)).rank_references
    assert not index_of(tiny.plan_of(tmp_path)).rank_references


def test_reference_rows_are_ranked_where_the_index_says_so():
    values = [making.noise(seed, 20) for seed in range(2)]
    made = [*making.measured("real_images", values, is_reference=True)]
    made += making.measured("method", [one - 1 for one in values])
    board = making.boards_of(made, rank_references=True).wide["reconstruction"].set_index("method")
    assert board["rank"].to_dict() == {"real_images": 1, "method": 2}
    board = making.boards_of(made).wide["reconstruction"].set_index("method")
    assert board["rank"].dropna().to_dict() == {"method": 1}
