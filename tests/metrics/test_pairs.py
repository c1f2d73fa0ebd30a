from collections import Counter
from itertools import combinations

import pytest
import torch

from metrics._pairs import choose_pairs, own_order


def chosen(count, most):
    first, second = choose_pairs(count, most, torch.device("cpu"))
    return list(zip(first.tolist(), second.tolist(), strict=True))


@pytest.mark.parametrize(("count", "most"), [(2, 1), (5, 10), (100, 5000)])
def test_all_pairs_are_taken_where_they_are_few(count, most):
    assert chosen(count, most) == list(combinations(range(count), 2))


@pytest.mark.parametrize(("count", "most"), [(5, 9), (6, 14), (7, 20), (101, 5000), (300, 1000), (30, 10), (3, 1)])
def test_of_many_each_pair_comes_once_and_each_image_equally_often(count, most):
    pairs = chosen(count, most)
    assert count * max(1, most // count) == len(pairs) == len({frozenset(pair) for pair in pairs})
    assert all(0 <= one < count and 0 <= other < count and one != other for one, other in pairs)
    assert len(set(Counter(image for pair in pairs for image in pair).values())) == 1


def test_near_and_far_pairs_are_taken():
    distances = {min(abs(one - other), 1000 - abs(one - other)) for one, other in chosen(1000, 5000)}
    assert distances == {99, 199, 299, 399, 499}


def test_images_have_one_order_however_they_come():
    images = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    shuffled = images[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(images[own_order(images)], shuffled[own_order(shuffled)])
    assert not torch.equal(images[own_order(images)], images)
