import statistics

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.latent_variance_share import latent_variance_share


def drawn(groups, size, between, within, seed=0, features=4):
    """(groups · size, features): a mean for each group, and a scatter about it."""
    generator = torch.Generator().manual_seed(seed)
    means = between * torch.randn(groups, 1, features, generator=generator, dtype=torch.float64)
    scatter = within * torch.randn(groups, size, features, generator=generator, dtype=torch.float64)
    return (means + scatter).flatten(0, 1), torch.arange(groups).repeat_interleave(size)


def share(rows, groups):
    return latent_variance_share(referee_features=rows, latent_groups=groups).item()


def by_definition(rows, groups):
    """The mean squares of one-way analysis of variance, feature by feature."""
    within = total = 0.0
    for column in rows.T.tolist():
        total += statistics.variance(column)
        parts = [
            [v for v, g in zip(column, groups.tolist(), strict=True) if g == name] for name in set(groups.tolist())
        ]
        squares = sum((v - statistics.fmean(part)) ** 2 for part in parts for v in part)
        within += squares / (len(column) - len(parts))
    return min(1.0, within / total)


def test_agrees_with_its_definition_for_unequal_groups():
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = torch.tensor([7, 7, -1, 3, 3, 3, 7, 5, -1])
    rows += groups[:, None]
    value = share(rows, groups)
    assert 0 < value < 1
    assert value == pytest.approx(by_definition(rows, groups), rel=1e-10)


def test_a_latent_that_is_ignored_has_no_share():
    assert share(*drawn(6, 3, between=1, within=0)) == pytest.approx(0, abs=1e-12)


def test_a_condition_that_is_ignored_leaves_everything_to_the_latent():
    shares = [share(*drawn(200, 2, between=0, within=1, seed=seed)) for seed in range(5)]
    assert all(0.9 < found <= 1 for found in shares)  # with biased variances it would be 1/2


@pytest.mark.parametrize("size", [2, 5])
def test_the_size_of_the_groups_does_not_enter(size):
    assert share(*drawn(1000, size, between=1, within=1)) == pytest.approx(0.5, abs=0.03)


def test_more_scatter_in_the_groups_is_a_larger_share():
    found = [share(*drawn(9, 4, between=1, within=scatter)) for scatter in (0.1, 0.5, 1, 3)]
    assert found == sorted(found) and found[0] < found[-1]


def test_one_group_of_all_images_is_one():
    rows, _ = drawn(1, 5, between=1, within=1)
    assert share(rows, torch.zeros(5, dtype=torch.int64)) == pytest.approx(1)


def test_groups_of_one_and_equal_features_are_undefined():
    rows, groups = drawn(4, 1, between=1, within=1)
    answer = latent_variance_share(referee_features=rows, latent_groups=groups)
    assert answer == Undefined("no group of equal conditions has two images among 4")
    answer = latent_variance_share(referee_features=torch.full((4, 2), 0.1), latent_groups=torch.tensor([0, 0, 1, 1]))
    assert answer == Undefined("the features of all images of the class are equal")


def test_groups_that_are_not_whole_numbers_are_refused():
    with pytest.raises(ShapeError, match=r"latent_groups should be whole numbers, got torch\.float32"):
        latent_variance_share(referee_features=torch.ones(2, 2), latent_groups=torch.zeros(2))
