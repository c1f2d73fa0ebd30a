"""Metrics of sets beside the libraries that papers cite: torch-fidelity, prdc, vendi-score."""

import functools

import numpy as np
import pytest
import torch

from metrics._kernel import kernel_distance
from metrics._moments import frechet_distance
from metrics.coverage import coverage
from metrics.density import density
from metrics.precision import precision
from metrics.recall import recall
from metrics.vendi_ratio import vendi_ratio
from metrics.vendi_referee_cosine import vendi_referee_cosine

# ---- torch-fidelity -------------------------------------------------------------------------------------------------

SHAPES = [(5000, 64), (2100, 2048), (150, 2048)]  # images, features


@functools.cache
def rectified(count, dimensions):
    """Generated and real features as networks have them: none negative, of unequal spread, and not independent."""
    random = np.random.RandomState(count)
    mixing = random.randn(dimensions, dimensions) / dimensions**0.5 * np.geomspace(0.2, 2, dimensions)
    return [
        torch.from_numpy(np.maximum(random.randn(count, dimensions) @ mixing + shift, 0)).float() for shift in (0.1, 0)
    ]


@pytest.mark.parametrize(("count", "dimensions"), SHAPES)
def test_the_frechet_distance_is_torch_fidelitys(count, dimensions):
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    generated, real = rectified(count, dimensions)
    statistics = [fid.fid_features_to_statistics(side.double()) for side in (generated, real)]
    expected = fid.fid_statistics_to_metric(*statistics, verbose=False)[fid.KEY_METRIC_FID]
    assert frechet_distance(generated=generated, real=real).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("count", "dimensions"), SHAPES)
def test_the_kernel_distance_is_torch_fidelitys_of_one_subset_of_everything(count, dimensions):
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    generated, real = rectified(count, dimensions)
    asked = {"kid_subsets": 1, "kid_subset_size": count, "rng_seed": 0, "verbose": False}
    kernel = {
        "kid_kernel": "poly",
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1,
    }
    found = kid.kid_features_to_metric(generated.double(), real.double(), **asked, **kernel)
    answer = kernel_distance(generated=generated, real=real)
    assert answer.item() == pytest.approx(found[kid.KEY_METRIC_KID_MEAN], rel=1e-5)


# ---- prdc -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(
    ("count", "real_count", "dimensions"), [(500, 500, 64), (300, 200, 8), (60, 400, 2), (90, 80, 700)]
)
def test_the_four_metrics_of_neighbours_are_prdcs(count, real_count, dimensions, k, dtype):
    prdc = pytest.importorskip("prdc")
    random = np.random.RandomState(0)
    real, generated = (random.randn(n, dimensions).astype(dtype) for n in (real_count, count))
    # in double precision: its own distances of single precision features are rounded to single precision
    expected = prdc.compute_prdc(real.astype(np.float64), generated.astype(np.float64), nearest_k=k)
    sets = {"referee_features": torch.from_numpy(generated), "real_referee_features": torch.from_numpy(real)}
    for metric in (precision, recall, density, coverage):
        answer = metric(**sets, k=k).mean().item()
        assert answer == pytest.approx(expected[metric.__name__], abs=1e-12), metric.__name__


# ---- vendi-score ----------------------------------------------------------------------------------------------------


old_name_in_scipy = pytest.mark.filterwarnings("ignore:Please import `csr_matrix`:DeprecationWarning")


@old_name_in_scipy
@pytest.mark.parametrize(("count", "dimensions"), [(300, 20), (40, 500), (64, 64)])
def test_the_vendi_score_is_the_librarys(count, dimensions):
    vendi = pytest.importorskip("vendi_score.vendi")
    features = np.maximum(np.random.RandomState(count).randn(count, dimensions) + 0.5, 0.0)
    answer = vendi_referee_cosine(referee_features=torch.from_numpy(features))
    assert answer.item() == pytest.approx(vendi.score_dual(features), rel=1e-9)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert answer.item() == pytest.approx(vendi.score_K(unit @ unit.T), rel=1e-9)


def test_the_ratio_of_vendi_scores_is_that_of_the_librarys():
    vendi = pytest.importorskip("vendi_score.vendi")
    random = np.random.RandomState(0)
    generated, real = random.rand(50, 6), random.rand(30, 6) - 0.3
    expected = (vendi.score_dual(generated[:30]) - 1) / (vendi.score_dual(real) - 1)
    sets = (torch.from_numpy(side) for side in (generated, real))
    answer = vendi_ratio(**dict(zip(("referee_features", "real_referee_features"), sets, strict=True)))
    assert answer.item() == pytest.approx(expected, rel=1e-9)
