import math

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.activation_ratio import activation_ratio


def test_each_image_is_measured_by_real_images_of_its_own_target():
    ratio = activation_ratio(activation=torch.tensor([3.0, 3.0, -1.0]), real_activation=torch.tensor([1.5, 3.0, 4.0]))
    assert ratio.tolist() == [2, 1, -0.25]


@pytest.mark.parametrize("mean", [0.0, -2.0])
def test_a_target_that_real_images_do_not_drive_has_no_ratio(mean: float):
    ratio = activation_ratio(activation=torch.tensor([1.0, 2.0]), real_activation=torch.tensor([mean, 4.0]))
    assert math.isnan(ratio[0]) and ratio[1] == 0.5
    nothing = activation_ratio(activation=torch.ones(2), real_activation=torch.tensor([mean, mean]))
    assert nothing == Undefined("real images drive no target above 0")


def test_activations_that_are_not_finite_are_refused():
    with pytest.raises(ShapeError, match="real_activation should be finite, got 1 of 2"):
        activation_ratio(activation=torch.ones(2), real_activation=torch.tensor([1.0, float("nan")]))
