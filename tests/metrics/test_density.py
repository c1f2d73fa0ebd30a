import math

import numpy as np
import pytest
import torch

from bench.contract import Undefined
from metrics.density import density


def gap(x, y):
    return math.dist(x, y)


def radii_of(rows, k):
    """Distance from each row to its k-th nearest other row."""
    return [sorted(gap(x, y) for j, y in enumerate(rows) if j != i)[k - 1] for i, x in enumerate(rows)]


def by_definition(ours, real, k):
    radii = radii_of(real, k)
    return sum(gap(x, y) < r for y, r in zip(real, radii, strict=True) for x in ours) / k / len(ours)


def test_normal_sets_have_the_known_value():
    random = np.random.RandomState(0)
    real, ours = (torch.from_numpy(random.randn(500, 64)) for _ in range(2))
    answer = density(referee_features=ours, real_referee_features=real, k=5)
    assert answer.mean().item() == pytest.approx(1.1352, abs=1e-9)


def test_four_points_on_a_line_have_the_known_value():
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    ours = torch.tensor([[0.1], [1.1], [2.1], [10.0]])
    answer = density(referee_features=ours, real_referee_features=real, k=1)
    assert answer.mean().item() == pytest.approx(1.5)


@pytest.mark.parametrize("k", [1, 5])
def test_agrees_with_its_definition_for_unequal_sets(k):
    generator = torch.Generator().manual_seed(k)
    ours, real = torch.randn(30, 3, generator=generator), torch.randn(25, 3, generator=generator) + 0.5
    answer = density(referee_features=ours, real_referee_features=real, k=k)
    assert answer.mean().item() == pytest.approx(by_definition(ours.tolist(), real.tolist(), k))


def test_an_image_far_from_everything_has_none():
    real = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    assert density(referee_features=real[:2] + 100, real_referee_features=real).tolist() == [0, 0]


def test_as_many_real_images_as_neighbours_are_undefined():
    answer = density(referee_features=torch.zeros(9, 2), real_referee_features=torch.zeros(5, 2))
    assert answer == Undefined("needs 6 real images and a generated one, got 5 and 9")
