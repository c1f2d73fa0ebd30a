"""The passes over sets that precision, recall, density, coverage and two-sample accuracy share."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.contract import Undefined
from metrics import _neighbours
from metrics._neighbours import Neighbourhoods, neighbourhoods
from metrics.coverage import coverage
from metrics.density import density
from metrics.precision import precision
from metrics.recall import recall


def squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def nearest_others(rows, place):
    return sorted(squared(rows[place], other) for i, other in enumerate(rows) if i != place)


def by_definition(generated, real, k):
    """The docstring of ``Neighbourhoods`` as plain loops over lists of numbers."""

    def balls(rows):
        others = [nearest_others(rows, place) for place in range(len(rows))]
        return [found[k - 1] if len(found) >= k else 0 for found in others], [
            (found or [math.inf])[0] for found in others
        ]

    def stranger(least, sibling):
        return 1 if least < sibling else 0.5 if least == sibling else 0

    (ball, sibling), (real_ball, real_sibling) = balls(generated), balls(real)
    apart = [[squared(x, y) for y in real] for x in generated]
    columns = list(zip(*apart, strict=True))
    return Neighbourhoods(
        [sum(d < r for d, r in zip(row, real_ball, strict=True)) for row in apart],
        [sum(d < r for d, r in zip(column, ball, strict=True)) for column in columns],
        [any(d < r for d in column) for column, r in zip(columns, real_ball, strict=True)],
        [stranger(min(row), s) for row, s in zip(apart, sibling, strict=True)],
        [stranger(min(column), s) for column, s in zip(columns, real_sibling, strict=True)],
    )


def assert_by_definition(generated, real, k, block=2**23):
    found = neighbourhoods(generated=generated, real=real, k=k, block=block)
    expected = by_definition(generated.double().tolist(), real.double().tolist(), k)
    for name, ours, theirs in zip(Neighbourhoods._fields, found, expected, strict=True):
        assert ours.tolist() == theirs, name


def normal(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


CASES = {
    "single precision": (normal(0, 25, 6), normal(1, 20, 6)),
    "double precision": (normal(0, 25, 6, dtype=torch.double), normal(1, 20, 6, dtype=torch.double)),
    "far from the origin": (normal(0, 25, 6) + 1e4, normal(1, 20, 6) + 1e4),
    "one far outlier": (torch.cat([normal(0, 24, 6), normal(2, 1, 6) * 1e8]), normal(1, 20, 6)),
    "a lattice": (normal(0, 25, 2).round(), normal(1, 20, 2).round()),
    "a lattice that rounds": ((normal(0, 25, 2) * 2).round() / 10, (normal(1, 20, 2) * 2).round() / 10),
    "a set with itself": (normal(0, 25, 6), normal(0, 25, 6)),
    "one generated image": (normal(0, 1, 6).expand(25, 6), normal(1, 20, 6)),
    "one real image, generated": (normal(1, 20, 6)[3].expand(25, 6), normal(1, 20, 6)),
    "one image everywhere": (normal(0, 1, 6).expand(25, 6), normal(0, 1, 6).expand(20, 6)),
    "each image thrice": (normal(0, 8, 6).repeat(3, 1), normal(1, 7, 6).repeat(3, 1)),
    "fewer images than neighbours": (normal(0, 3, 6), normal(1, 2, 6)),
    "one against many": (normal(0, 1, 6), normal(1, 20, 6)),
    "one number an image": (normal(0, 25, 1), normal(1, 20, 1)),
}


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_its_definition_exactly(case, k):
    assert_by_definition(*CASES[case], k)


@pytest.mark.parametrize("block", [1, 50, 2**23])
@pytest.mark.parametrize("differences", [1, 2**24])
@pytest.mark.parametrize("case", ["a lattice that rounds", "each image thrice", "single precision"])
def test_blocks_change_nothing(case, block, differences, monkeypatch):
    monkeypatch.setattr(_neighbours, "DIFFERENCES", differences)
    generated, real = (side.clone() for side in CASES[case])  # not those that a result is remembered for
    assert_by_definition(generated, real, 2, block=block)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), step=st.sampled_from([0.1, 1 / 3, 1.0, 7e-4]), offset=st.sampled_from([0.0, 3e3]))
def test_ties_of_every_kind_are_ties(seed, step, offset):
    generated, real = (normal(seed + side, 12 - side, 2).round() * step + offset for side in (0, 1))
    assert_by_definition(generated, real, 2)


def test_products_alone_would_be_wrong_where_differences_are_right():
    real = torch.tensor([[1.0], [1.0 + 2**-30], [3.0]], dtype=torch.double) + 2**10  # |x|² drops what tells them apart
    assert_by_definition(real + 2**-31, real, 1)


def test_many_copies_cost_no_more_than_one(monkeypatch):
    copies = normal(0, 3, 4).repeat(400, 1)
    settled = []
    settle = _neighbours._settle
    monkeypatch.setattr(_neighbours, "_settle", lambda *given: (settled.append(int(given[1].sum())), settle(*given)))
    neighbourhoods(generated=copies, real=copies.clone(), k=5)
    assert sum(settled) <= 27  # three passes over 3 × 3 pairs


def test_a_set_is_looked_at_once_for_all_metrics(monkeypatch):
    passes = []
    blocks = _neighbours._blocks
    monkeypatch.setattr(_neighbours, "_blocks", lambda *given: (passes.append(1), blocks(*given))[1])
    sets = {"referee_features": normal(0, 20, 4), "real_referee_features": normal(1, 30, 4)}
    for metric in (precision, density, recall, coverage):
        metric(**sets)
    assert len(passes) == 3  # generated, real, both
    precision(referee_features=normal(2, 20, 4), real_referee_features=sets["real_referee_features"])
    assert len(passes) == 5  # the real side is known


def test_features_too_large_to_square_are_undefined():
    huge = torch.full((9, 2), 1e200, dtype=torch.double)
    for metric in (precision, density, recall, coverage):
        answer = metric(referee_features=huge, real_referee_features=huge)
        assert answer == Undefined("the features are too large to be squared")


# ---- known degradations of a set, in the metrics' own words ---------------------------------------------------------


def modes(seed, count):
    """Ten separate clouds."""
    centres = 20 * torch.eye(10)
    return centres[torch.arange(count) % 10] + normal(seed, count, 10)


@functools.cache
def scores(what):
    """(precision, density, recall, coverage) of a degraded set against a faithful one."""
    real, made = modes(0, 300), modes(1, 300)
    degraded = {
        "faithful": lambda: made,
        "half of the modes": lambda: made[torch.arange(300) % 10 < 5].repeat(2, 1) + 0.3 * normal(2, 300, 10),
        "blurred": lambda: made + 2.0 * normal(2, 300, 10),
        "noise": lambda: made + 40.0 * normal(2, 300, 10),
        "one image": lambda: made[:1].expand(300, 10),
    }[what]()
    sets = {"referee_features": degraded, "real_referee_features": real}
    return tuple(metric(**sets).mean().item() for metric in (precision, density, recall, coverage))


def test_dropped_modes_lower_recall_and_coverage_but_not_precision():
    whole, dropped = scores("faithful"), scores("half of the modes")
    assert dropped[0] > whole[0] - 0.1
    assert dropped[2] < whole[2] - 0.3
    assert dropped[3] < whole[3] - 0.3


def test_growing_noise_lowers_precision_density_and_coverage():
    for place in (0, 1, 3):
        assert scores("faithful")[place] > scores("blurred")[place] + 0.1
        assert scores("blurred")[place] >= scores("noise")[place]


def test_one_image_repeated_recalls_nothing_and_covers_next_to_nothing():
    _, _, recalled, covered = scores("one image")
    assert recalled == 0
    assert covered < 0.1
