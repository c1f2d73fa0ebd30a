import itertools

import pytest
import torch

from bench.contract import Undefined
from metrics.kernel_target_penultimate import kernel_target_penultimate


def drawn(count, seed, features=6):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def test_agrees_with_its_definition():
    generated, real = drawn(5, 0) + 0.3, drawn(7, 1)

    def kernel(x, y):
        return (sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / 6 + 1) ** 3

    def mean(pairs):
        values = [kernel(x, y) for x, y in pairs]
        return sum(values) / len(values)

    within = mean(itertools.permutations(generated, 2)) + mean(itertools.permutations(real, 2))
    expected = within - 2 * mean(itertools.product(generated, real))
    value = kernel_target_penultimate(target_features=generated, real_target_features=real).item()
    assert value == pytest.approx(expected, rel=1e-9)


def test_one_image_is_undefined_not_zero():
    answer = kernel_target_penultimate(target_features=drawn(5, 0), real_target_features=drawn(1, 1))
    assert answer == Undefined("a pair needs 2 images, got 5 generated and 1 real")
