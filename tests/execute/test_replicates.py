"""How many replicates of a set metric are made, and which."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.contract import metric
from bench.execute import measure

CELL = SimpleNamespace(track="inversion", images=20)


@metric(unit="x", better="lower", per="set", bounds=(None, None), tracks=("inversion",), replicates=40)
def gap(*, referee_features, real_referee_features):
    return referee_features.double().mean() - real_referee_features.double().mean()


def sides(count, dimensions, device="cpu"):
    shapes = torch.empty(2, count, dimensions, device=device)
    return {"referee_features": shapes[0], "real_referee_features": shapes[1]}


@pytest.mark.parametrize(
    ("count", "dimensions", "low", "high"),
    [(100, 64, 100, 100), (3000, 2048, 100, 100), (10_000, 512, 30, 60), (10_000, 2048, 10, 20), (50_000, 2048, 0, 0)],
)
def test_large_sets_have_fewer_replicates_and_the_largest_none(count, dimensions, low, high):
    given = sides(count, dimensions, device="meta")
    assert low <= measure.affordable(100, count, given) <= high


def test_a_metric_gets_no_more_than_it_asks_for():
    assert measure.affordable(7, 20, sides(20, 3)) == 7


def replicates_of(values):
    given = {"referee_features": values, "real_referee_features": torch.zeros(30, 3)}
    _, arrays, _ = measure._per_set(gap, gap.__glassbench__, CELL, given)
    return arrays.get("replicates")


def test_few_replicates_are_the_first_of_many(monkeypatch):
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    many = replicates_of(values)
    assert len(many) == 40
    assert len(np.unique(many)) > 30
    monkeypatch.setattr(measure, "REPLICATE_WORK", 12 * 20 * (20 + 30) * 3)  # 12 products of all with the 20 images
    np.testing.assert_array_equal(replicates_of(values), many[:12])


def test_too_few_for_an_interval_are_none(monkeypatch):
    monkeypatch.setattr(measure, "REPLICATE_WORK", 9 * 20 * (20 + 30) * 3)
    assert replicates_of(torch.ones(20, 3)) is None


def test_cells_with_equally_many_images_draw_the_same_images():
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(replicates_of(values + 2), replicates_of(values) + 2, atol=1e-6)
