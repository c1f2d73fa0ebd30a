"""What must hold for whole families of metrics: identity, symmetry, exchange of sides, and known changes of a set."""

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.contract import Undefined

few = settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def call(stem: str, **roles: object) -> Tensor | Undefined:
    function = getattr(importlib.import_module(f"metrics.{stem}"), stem)
    return function(**roles)


def mean(stem: str, **roles: object) -> float:
    """The metric's value, averaged over images where it has one an image."""
    answer = call(stem, **roles)
    assert isinstance(answer, Tensor), f"{stem}: {answer}"
    return answer.mean().item()


def sets(stem: str, generated: Tensor, real: Tensor) -> float:
    return mean(stem, referee_features=generated, real_referee_features=real)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---- identity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stem", "best"), [("rmse", 0), ("ssim_gauss11_s15", 1)])
@few
@given(seed=seeds)
def test_an_image_compared_with_itself_has_the_best_value(stem: str, best: float, seed: int):
    images = pictures(3, 3, 16, 16, seed=seed)
    assert mean(stem, generated=images, real=images) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    "stem", ["same_class_rmse_ratio", "same_class_ssim_ratio", "high_frequency_ratio", "total_variation_ratio"]
)
@few
@given(seed=seeds)
def test_a_set_of_images_is_as_real_as_itself(stem: str, seed: int):
    images = pictures(6, 3, 16, 16, seed=seed)
    assert mean(stem, generated=images, real=images) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("stem", ["vendi_ratio", "same_class_cosine_ratio", "precision", "coverage"])
@few
@given(seed=seeds)
def test_a_set_of_features_is_as_real_as_itself(stem: str, seed: int):
    features = normal(40, 6, seed=seed)
    assert sets(stem, features, features) == pytest.approx(1, abs=1e-9)


@few
@given(seed=seeds)
def test_a_set_is_no_distance_from_itself(seed: int):
    features = normal(40, 6, seed=seed)
    assert abs(sets("frechet_referee_penultimate", features, features)) < 1e-9
    assert -1 < sets("kernel_referee_penultimate", features, features) < 0, "unbiased, and not clipped"


@few
@given(seed=seeds)
def test_the_wanted_distribution_itself_has_no_divergence(seed: int):
    logits = normal(5, 4, seed=seed)
    wanted = logits.double().softmax(1)
    assert mean("kl_to_wanted", target_logits=logits, wanted_distribution=wanted) == pytest.approx(0, abs=1e-12)


# ---- symmetry and exchange -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["rmse", "ssim_gauss11_s15"])
@few
@given(seed=seeds)
def test_a_distance_between_images_is_the_same_from_both_sides(stem: str, seed: int):
    one, other = pictures(3, 3, 16, 16, seed=seed), pictures(3, 3, 16, 16, seed=seed + 1)
    there, back = mean(stem, generated=one, real=other), mean(stem, generated=other, real=one)
    assert there == pytest.approx(back, rel=1e-12)


@pytest.mark.parametrize("stem", ["frechet_referee_penultimate", "kernel_referee_penultimate"])
@few
@given(seed=seeds)
def test_a_distance_between_sets_is_the_same_from_both_sides(stem: str, seed: int):
    one, other = normal(40, 6, seed=seed), normal(30, 6, seed=seed + 1) + 0.5
    assert sets(stem, one, other) == pytest.approx(sets(stem, other, one), rel=1e-9)


@few
@given(seed=seeds)
def test_precision_of_one_set_in_the_other_is_recall_the_other_way_round(seed: int):
    one, other = normal(40, 4, seed=seed), normal(30, 4, seed=seed + 1) * 1.5
    assert sets("precision", one, other) == pytest.approx(sets("recall", other, one))
    assert sets("precision", other, one) == pytest.approx(sets("recall", one, other))


@pytest.mark.parametrize(
    "stem",
    [
        "frechet_referee_penultimate",
        "kernel_referee_penultimate",
        "precision",
        "recall",
        "density",
        "coverage",
        "two_sample_accuracy",
        "vendi_ratio",
    ],
)
@few
@given(seed=seeds)
def test_turning_the_feature_space_changes_nothing(stem: str, seed: int):
    one, other = normal(40, 6, seed=seed).double(), normal(30, 6, seed=seed + 1).double() + 0.3
    turn = torch.linalg.qr(normal(6, 6, seed=seed + 2).double()).Q
    assert sets(stem, one @ turn, other @ turn) == pytest.approx(sets(stem, one, other), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "stem", ["rmse", "psnr", "ssim_gauss11_s15", "high_frequency_ratio", "total_variation_ratio", "same_class_ssim"]
)
def test_the_layout_of_images_in_memory_changes_nothing(stem: str):
    roles = {"generated": pictures(4, 3, 16, 16, seed=1), "real": pictures(4, 3, 16, 16, seed=2)}
    if stem == "same_class_ssim":
        del roles["real"]
    turned = {name: images.to(memory_format=torch.channels_last) for name, images in roles.items()}
    assert mean(stem, **turned) == pytest.approx(mean(stem, **roles), rel=1e-12)


# ---- known changes of a set ----------------------------------------------------------------------------------------


def modes(count: int, seed: int, kept: int = 8) -> Tensor:
    """(count, 6) features around the first ``kept`` of eight far-apart centres, equally often."""
    centres = 12 * normal(8, 6, seed=7)
    return centres[torch.arange(count) % kept] + normal(count, 6, seed=seed)


@few
@given(seed=seeds)
def test_dropping_modes_costs_recall_and_coverage_and_not_precision(seed: int):
    real, all_modes, few_modes = modes(160, seed), modes(160, seed + 1), modes(160, seed + 1, kept=3)
    for stem in ("recall", "coverage"):
        before, after = sets(stem, all_modes, real), sets(stem, few_modes, real)
        assert before > 0.7
        assert after < 0.55 * before
    assert sets("precision", few_modes, real) > sets("precision", all_modes, real) - 0.1
    assert sets("frechet_referee_penultimate", few_modes, real) > 10 * sets(
        "frechet_referee_penultimate", all_modes, real
    )
    assert sets("vendi_ratio", few_modes, real) < 0.7


@few
@given(seed=seeds, copies=st.integers(2, 40))
def test_copies_at_equal_number_lower_the_number_of_different_images(seed: int, copies: int):
    features = normal(40, 12, seed=seed)
    repeated = features[torch.arange(40) // copies]
    whole, less = (
        mean("vendi_referee_cosine", referee_features=features),
        mean("vendi_referee_cosine", referee_features=repeated),
    )
    assert less < whole
    assert less <= math.ceil(40 / copies) + 1e-9


@pytest.mark.parametrize("stem", ["same_class_rmse", "same_class_ssim"])
@few
@given(seed=seeds)
def test_one_image_repeated_has_no_diversity(stem: str, seed: int):
    images = pictures(1, 1, 16, 16, seed=seed).repeat(6, 1, 1, 1)
    assert mean(stem, generated=images) == pytest.approx(0, abs=1e-9)


@few
@given(seed=seeds, steps=st.lists(st.floats(0.1, 4), min_size=3, max_size=3))
def test_a_set_that_moves_away_gets_worse_step_by_step(seed: int, steps: list[float]):
    real, start = normal(200, 5, seed=seed), normal(200, 5, seed=seed + 1)
    away = [start + sum(steps[:count]) for count in range(4)]
    frechet = [sets("frechet_referee_penultimate", one, real) for one in away]
    kernel = [sets("kernel_referee_penultimate", one, real) for one in away]
    assert frechet == sorted(frechet)
    assert kernel == sorted(kernel)


@few
@given(seed=seeds)
def test_islands_are_told_apart_and_copies_of_real_images_are_not(seed: int):
    real, alike = normal(100, 5, seed=seed), normal(100, 5, seed=seed + 1)
    assert sets("two_sample_accuracy", alike + 50, real) == 1
    assert 0.3 < sets("two_sample_accuracy", alike, real) < 0.7
    assert sets("two_sample_accuracy", real.clone(), real) < 0.1
