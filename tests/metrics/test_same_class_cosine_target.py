import math
from itertools import combinations

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.same_class_cosine_target import same_class_cosine_target


def by_definition(rows):
    def cosine(a, b):
        return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    pairs = list(combinations(rows.double().tolist(), 2))
    return sum(1 - cosine(a, b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("shape", [(2, 3), (9, 4), (4, 9)])
def test_agrees_with_its_definition(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert same_class_cosine_target(target_features=rows).item() == pytest.approx(by_definition(rows), rel=1e-10)


def test_one_image_repeated_is_zero_and_orthogonal_features_are_one():
    assert same_class_cosine_target(target_features=torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-14)
    assert same_class_cosine_target(target_features=torch.eye(5)).item() == pytest.approx(1)


def test_a_common_offset_hides_the_spread():
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    found = [same_class_cosine_target(target_features=rows + offset).item() for offset in (0, 2, 20)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.01 * found[0]


def test_one_image_and_features_of_zero_are_undefined():
    assert same_class_cosine_target(target_features=torch.ones(1, 3)) == Undefined(
        "a pair needs 2 images of the class, got 1"
    )
    assert same_class_cosine_target(target_features=torch.tensor([[1.0, 0], [0, 0]])) == Undefined(
        "1 of 2 target_features are all zero and have no direction"
    )


def test_maps_are_refused():
    with pytest.raises(ShapeError, match=r"target_features should be \(N, D\), got \(2, 3, 4, 4\)"):
        same_class_cosine_target(target_features=torch.ones(2, 3, 4, 4))
