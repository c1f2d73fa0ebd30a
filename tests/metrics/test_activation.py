import pytest
import torch

from bench.contract import ShapeError
from metrics.activation import activation


def test_is_what_the_task_measured():
    assert activation(activation=torch.tensor([1.5, -2.0])).tolist() == [1.5, -2.0]


def test_activations_that_are_not_finite_are_refused():
    with pytest.raises(ShapeError, match="activation should be finite, got 1 of 2"):
        activation(activation=torch.tensor([1.0, float("inf")]))
