import math

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.same_class_cosine_ratio import same_class_cosine_ratio


def at(*degrees):
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], dtype=torch.float64)


def test_real_images_are_as_diverse_as_themselves():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert same_class_cosine_ratio(referee_features=rows, real_referee_features=rows).item() == 1.0


def test_sixty_degrees_are_half_of_ninety():
    answer = same_class_cosine_ratio(referee_features=at(10, 70), real_referee_features=at(0, 90))
    assert answer.item() == pytest.approx(0.5)


def test_more_real_images_than_generated_ones_are_compared_among_themselves():
    # 1 − cosine over the three pairs of 0°, 90° and 180°: 1, 1 and 2
    answer = same_class_cosine_ratio(referee_features=at(0, 90), real_referee_features=at(0, 90, 180))
    assert answer.item() == pytest.approx(1 / (4 / 3))


def test_real_images_of_one_direction_are_undefined_not_infinite():
    answer = same_class_cosine_ratio(referee_features=at(0, 90), real_referee_features=at(33, 33, 33) * 0.3)
    assert answer == Undefined("the features of the real images of the class have one direction")


def test_one_image_and_features_of_zero_are_undefined():
    answer = same_class_cosine_ratio(referee_features=at(0, 90), real_referee_features=at(0))
    assert answer == Undefined("a pair needs 2 images of the class, got 2 generated and 1 real")
    answer = same_class_cosine_ratio(referee_features=at(0, 90), real_referee_features=at(0, 90, 5) * 0)
    assert answer == Undefined("3 of 3 real_referee_features are all zero and have no direction")


def test_features_of_another_width_are_refused():
    with pytest.raises(ShapeError, match="real_referee_features should be"):
        same_class_cosine_ratio(referee_features=torch.ones(2, 3), real_referee_features=torch.ones(2, 4))
