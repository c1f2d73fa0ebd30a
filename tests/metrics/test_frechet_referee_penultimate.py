import numpy as np
import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics._moments import frechet_distance, frechet_from_statistics, moments
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


@pytest.mark.parametrize(("dimensions", "shift", "expected"), [(64, 0.5, 16), (4, 1.0, 4)])
def test_from_statistics_a_shift_of_equal_unit_covariances_is_its_squared_length(dimensions, shift, expected):
    mean, unit = torch.zeros(dimensions), torch.eye(dimensions)
    assert frechet_from_statistics(mean, unit, mean + shift, unit).item() == pytest.approx(expected, rel=1e-15)


def test_from_statistics_the_distance_is_that_of_the_sets():
    ours, theirs = toy(3, 300, 16)
    statistics = [part for side in (ours, theirs) for part in (side.mean(0), side.T.cov())]
    expected = frechet_distance(generated=ours, real=theirs).item()
    assert frechet_from_statistics(*statistics).item() == pytest.approx(expected, rel=1e-10)


def test_fewer_images_than_features_have_the_known_value():
    ours, theirs = (torch.from_numpy(np.random.RandomState(seed).randn(20, 64)) for seed in (1, 2))
    answer = frechet_referee_penultimate(referee_features=ours, real_referee_features=theirs)
    assert answer.item() == pytest.approx(78.168694, abs=1e-6)


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


@pytest.mark.parametrize("count", [17, 300])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_change_nothing(count, block):
    ours, _ = toy(5, count, 16)
    ours = ours.float() + 100
    _, root = moments(ours, block=block)
    torch.testing.assert_close(root.T @ root, ours.double().T.cov(), rtol=1e-10, atol=1e-12)


def test_blocks_do_not_move_the_distance():
    ours, theirs = toy(6, 90, 16)
    expected = frechet_distance(generated=ours, real=theirs).item()
    for block in (1, 5, 16, 17, 89):
        mean, root = moments(ours, block=block)
        answer = frechet_from_statistics(mean, root.T @ root, theirs.mean(0), theirs.T.cov())
        assert answer.item() == pytest.approx(expected, rel=1e-10)


def test_the_real_sides_moments_are_found_once_for_all_replicates(monkeypatch):
    ours, theirs = toy(7, 40, 8)
    seen, qr = [], torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda *given, **how: (seen.append(1), qr(*given, **how))[1])
    for row in torch.randint(40, (5, 40), generator=torch.Generator().manual_seed(0)):
        frechet_referee_penultimate(referee_features=ours[row], real_referee_features=theirs)
    assert len(seen) == 5 + 1


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
