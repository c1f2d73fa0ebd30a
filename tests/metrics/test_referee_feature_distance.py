import math

import pytest
import torch
from scipy.spatial.distance import cosine

from bench.contract import ShapeError, Undefined
from metrics.referee_feature_distance import referee_feature_distance


def test_agrees_with_scipy_row_by_row():
    ours, theirs = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [cosine(a, b) for a, b in zip(ours.numpy(), theirs.numpy(), strict=True)]
    values = referee_feature_distance(referee_features=ours, real_referee_features=theirs).tolist()
    assert values == pytest.approx(expected, rel=1e-10)


def test_equal_orthogonal_and_opposite_directions():
    ours = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    theirs = torch.tensor([[30.0, 40.0], [0.0, 2.0], [-1.0, -1.0]])
    values = referee_feature_distance(referee_features=ours, real_referee_features=theirs).tolist()
    assert values == pytest.approx([0, 1, 2], abs=1e-14)


def test_a_tiny_angle_keeps_its_digits():
    angle = 1e-7
    ours = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    value = referee_feature_distance(referee_features=ours, real_referee_features=torch.tensor([[1.0, 0.0]])).item()
    assert value == pytest.approx(angle**2 / 2, rel=1e-6)  # 1 − cos a = a²/2, below what 1 − cosine can resolve


def test_more_noise_is_farther():
    real = torch.rand(30, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    found = [
        referee_feature_distance(referee_features=real + s * noise, real_referee_features=real).mean().item()
        for s in (0, 0.1, 0.3, 1)
    ]
    assert found == sorted(found) and found[0] < found[-1]


def test_features_of_zero_have_no_value():
    ours, theirs = (
        torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]),
    )
    values = referee_feature_distance(referee_features=ours, real_referee_features=theirs).tolist()
    assert [math.isnan(value) for value in values] == [True, True, False]
    nothing = referee_feature_distance(referee_features=ours[:2], real_referee_features=theirs[:2])
    assert nothing == Undefined("every image has all-zero features, which have no direction, on one side")


def test_originals_that_are_not_paired_are_refused():
    with pytest.raises(ShapeError, match="real_referee_features should be"):
        referee_feature_distance(referee_features=torch.ones(3, 2), real_referee_features=torch.ones(4, 2))
