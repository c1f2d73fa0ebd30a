import math

import pytest
import torch

from bench.contract import Undefined
from metrics.gini_sparsity import gini_sparsity


def by_definition(values):
    """Half the relative mean absolute difference over all ordered pairs."""
    sizes = [abs(v) for v in values]
    return sum(abs(a - b) for a in sizes for b in sizes) / (2 * len(sizes) * sum(sizes))


def test_a_flat_map_is_zero_and_one_pixel_is_the_upper_end():
    single = torch.zeros(1, 2, 5)
    single[0, 1, 2] = -3
    assert gini_sparsity(maps=torch.ones(1, 2, 5)).item() == pytest.approx(0)
    assert gini_sparsity(maps=single).item() == pytest.approx(0.9)


def test_agrees_with_the_mean_absolute_difference():
    maps = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = [by_definition(map_.flatten().tolist()) for map_ in maps]
    assert gini_sparsity(maps=maps).tolist() == pytest.approx(expected, rel=1e-10)


def test_scale_and_sign_do_not_count():
    maps = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gini_sparsity(maps=-8 * maps), gini_sparsity(maps=maps))


def test_a_map_of_zeros_has_no_value():
    values = gini_sparsity(maps=torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])).tolist()
    assert math.isnan(values[0]) and values[1] == pytest.approx(0)
    assert gini_sparsity(maps=torch.zeros(2, 2, 2)) == Undefined("all maps are zero")
