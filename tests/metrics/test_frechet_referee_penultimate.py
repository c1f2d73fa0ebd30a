import numpy as np
import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.frechet_referee_penultimate import frechet_referee_penultimate


def toy(seed, count, dimensions):
    """Set A, then set B, of the golden toys."""
    random = np.random.RandomState(seed)
    return [torch.from_numpy(random.randn(count, dimensions)) for _ in range(2)]


def standardised(features):
    """The same set, moved and sheared to mean 0 and unit covariance exactly."""
    centred = features - features.mean(0)
    covariance = centred.T @ centred / (len(centred) - 1)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), centred.T, upper=False).T


def by_eigenvalues(ours, theirs):
    """Textbook form: the trace of the square root from the eigenvalues of the product of the covariances."""
    first, second = (np.cov(features.double().numpy(), rowvar=False) for features in (ours, theirs))
    root = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
    shift = ours.double().mean(0) - theirs.double().mean(0)
    return float(shift @ shift) + np.trace(first) + np.trace(second) - 2 * root


@pytest.mark.parametrize(("dimensions", "shift", "expected"), [(64, 0.5, 16), (4, 1.0, 4)])
def test_a_shift_of_equal_unit_covariances_is_its_squared_length(dimensions, shift, expected):
    ours, theirs = (standardised(features) for features in toy(0, 200, dimensions))
    answer = frechet_referee_penultimate(referee_features=ours, real_referee_features=theirs + shift)
    assert answer.item() == pytest.approx(expected, abs=1e-9)


def test_twice_the_spread_costs_one_a_dimension():
    ours, theirs = (standardised(features) for features in toy(0, 100, 5))
    answer = frechet_referee_penultimate(referee_features=2 * ours, real_referee_features=theirs)
    assert answer.item() == pytest.approx(5)  # Σ (2 − 1)²


@pytest.mark.parametrize("count", [20, 300])
def test_a_set_with_itself_is_below_a_billionth(count):
    features, _ = toy(0, count, 64)
    answer = frechet_referee_penultimate(referee_features=features, real_referee_features=features)
    assert abs(answer.item()) < 1e-9


@pytest.mark.parametrize(("count", "dimensions"), [(300, 16), (20, 64), (64, 64)])
def test_agrees_with_the_eigenvalue_form_for_few_and_many_images(count, dimensions):
    ours, theirs = toy(0, count, dimensions)
    answer = frechet_referee_penultimate(referee_features=ours, real_referee_features=theirs[: count - 5])
    assert answer.item() == pytest.approx(by_eigenvalues(ours, theirs[: count - 5]), rel=1e-5)


def test_one_image_is_undefined():
    answer = frechet_referee_penultimate(referee_features=torch.zeros(1, 3), real_referee_features=torch.zeros(4, 3))
    assert answer == Undefined("a covariance needs 2 images, got 1 generated and 4 real")


def test_features_too_large_to_square_are_undefined():
    huge = torch.tensor([[1e300], [-1e300]], dtype=torch.float64)
    answer = frechet_referee_penultimate(referee_features=huge, real_referee_features=huge)
    assert answer == Undefined("the features are too large to be squared")


def test_another_number_of_features_is_refused():
    with pytest.raises(ShapeError, match="with D = 3 as in referee_features"):
        frechet_referee_penultimate(referee_features=torch.zeros(4, 3), real_referee_features=torch.zeros(4, 2))
