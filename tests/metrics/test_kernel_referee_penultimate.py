import numpy as np
import pytest
import torch

from bench.contract import Undefined
from metrics._kernel import kernel_distance
from metrics.kernel_referee_penultimate import kernel_referee_penultimate


def toy(count, dimensions):
    random = np.random.RandomState(0)
    return [torch.from_numpy(random.randn(count, dimensions)) for _ in range(2)]


def by_definition(ours, theirs):
    """The three means as plain loops."""

    def kernel(x, y):
        return (float(np.dot(x, y)) / len(x) + 1) ** 3

    ours, theirs = ours.numpy(), theirs.numpy()
    inside = [
        np.mean([kernel(x, y) for i, x in enumerate(side) for j, y in enumerate(side) if i != j])
        for side in (ours, theirs)
    ]
    return sum(inside) - 2 * np.mean([kernel(x, y) for x in ours for y in theirs])


def test_agrees_with_its_definition():
    ours, theirs = toy(9, 5)
    answer = kernel_referee_penultimate(referee_features=ours, real_referee_features=theirs[:7] + 0.3)
    assert answer.item() == pytest.approx(by_definition(ours, theirs[:7] + 0.3), rel=1e-10)


def test_a_set_with_itself_is_slightly_negative_and_not_clipped():
    features, _ = toy(200, 64)
    answer = kernel_referee_penultimate(referee_features=features, real_referee_features=features).item()
    assert -0.1 < answer < 0


def test_equal_distributions_are_zero_on_average():
    random = np.random.RandomState(0)
    draws = []
    for _ in range(300):
        ours, theirs = (torch.from_numpy(random.randn(20, 4)) for _ in range(2))
        draws.append(kernel_referee_penultimate(referee_features=ours, real_referee_features=theirs).item())
    assert abs(np.mean(draws)) < 3 * np.std(draws) / len(draws) ** 0.5


def test_a_shift_is_further_than_no_shift():
    ours, theirs = toy(100, 8)
    near, far = (
        kernel_referee_penultimate(referee_features=ours, real_referee_features=theirs + shift).item()
        for shift in (0.0, 1.0)
    )
    assert far > near + 1


@pytest.mark.parametrize("block", [1, 30, 100, 2**24])
def test_blocks_change_nothing(block):
    ours, theirs = toy(23, 3)
    answer = kernel_distance(generated=ours, real=theirs[:17], block=block)
    assert answer.item() == pytest.approx(by_definition(ours, theirs[:17]), rel=1e-12)


def test_single_precision_features_are_compared_in_double():
    ours, theirs = (side.float() for side in toy(40, 5))
    answer = kernel_referee_penultimate(referee_features=ours, real_referee_features=theirs)
    assert answer.item() == pytest.approx(by_definition(ours.double(), theirs.double()), rel=1e-10)


def test_features_too_large_for_the_kernel_are_undefined():
    huge = torch.full((3, 2), 1e60, dtype=torch.double)
    answer = kernel_referee_penultimate(referee_features=huge, real_referee_features=huge)
    assert answer == Undefined("the features are too large for the kernel")


def test_one_image_is_undefined():
    answer = kernel_referee_penultimate(referee_features=torch.zeros(4, 3), real_referee_features=torch.zeros(1, 3))
    assert answer == Undefined("a pair needs 2 images, got 4 generated and 1 real")
