import math

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.feature_error import feature_error


def test_features_of_zero_are_one_away():
    wanted = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    assert feature_error(generated_features=0 * wanted, wanted_features=wanted).tolist() == pytest.approx([1, 1, 1])


def test_twice_the_features_are_one_away_and_equal_ones_not_at_all():
    wanted = torch.rand(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    assert feature_error(generated_features=2 * wanted, wanted_features=wanted).item() == pytest.approx(1)
    assert feature_error(generated_features=wanted, wanted_features=wanted).item() == 0


def test_three_four_five():
    answer = feature_error(generated_features=torch.tensor([[5.0, 0.0]]), wanted_features=torch.tensor([[5.0, 10.0]]))
    assert answer.item() == pytest.approx(10 / math.sqrt(125))


def test_wanted_features_of_zero_have_no_value():
    wanted = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    values = feature_error(generated_features=torch.ones(2, 2), wanted_features=wanted).tolist()
    assert math.isnan(values[0]) and values[1] == pytest.approx(1)
    nothing = feature_error(generated_features=torch.ones(2, 2), wanted_features=torch.zeros(2, 2))
    assert nothing == Undefined("the wanted features are all zero")


def test_unequal_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"of one shape, got \(2, 3\) and \(2, 4\)"):
        feature_error(generated_features=torch.zeros(2, 3), wanted_features=torch.zeros(2, 4))
