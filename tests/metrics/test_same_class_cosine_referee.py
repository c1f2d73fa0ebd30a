import math
from itertools import combinations

import pytest
import torch

from bench.contract import Undefined
from metrics.same_class_cosine_referee import same_class_cosine_referee


def by_definition(rows):
    def cosine(a, b):
        return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    pairs = list(combinations(rows.double().tolist(), 2))
    return sum(1 - cosine(a, b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("shape", [(2, 3), (9, 4), (4, 9)])
def test_agrees_with_its_definition(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert same_class_cosine_referee(referee_features=rows).item() == pytest.approx(by_definition(rows), rel=1e-10)


def test_equal_directions_are_zero_whatever_their_length():
    rows = torch.tensor([[3.0, 4.0]]) * torch.tensor([1.0, 2.0, 5.0])[:, None]
    assert same_class_cosine_referee(referee_features=rows).item() == pytest.approx(0, abs=1e-14)


def test_orthogonal_directions_are_one_and_opposite_ones_two():
    assert same_class_cosine_referee(referee_features=torch.eye(5) * 7).item() == pytest.approx(1)
    assert same_class_cosine_referee(referee_features=torch.tensor([[1.0, 2], [-2, -4]])).item() == pytest.approx(2)


def test_more_noise_is_more_diverse():
    noise = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    found = [same_class_cosine_referee(referee_features=1 + s * noise).item() for s in (0.01, 0.1, 0.5, 2)]
    assert found == sorted(found) and found[0] < found[-1]


def test_one_image_is_undefined_not_zero():
    answer = same_class_cosine_referee(referee_features=torch.ones(1, 3))
    assert answer == Undefined("a pair needs 2 images of the class, got 1")


def test_features_of_zero_are_undefined():
    rows = torch.tensor([[1.0, 0], [0, 0], [0, 1]])
    answer = same_class_cosine_referee(referee_features=rows)
    assert answer == Undefined("1 of 3 referee_features are all zero and have no direction")
