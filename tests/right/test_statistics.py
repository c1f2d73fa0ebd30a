"""The bootstrap against plain loops, closed forms and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from bench.leaderboard import statistics
from bench.leaderboard.statistics import (
    bootstrap_means,
    interval,
    over_seeds,
    paired_difference,
    rank_intervals,
    ranks,
    resampled_means,
    tiers,
)
from tests.right.making import noise


def by_loops(values, resamples, seed):
    """Draw the units of each replicate one replicate at a time and average what was drawn."""
    generator = np.random.default_rng([seed, len(values)])
    return [np.nanmean(values[generator.integers(0, len(values), len(values))]) for _ in range(resamples)]


def test_means_agree_with_loops_over_replicates():
    columns = [noise(0, 17), noise(1, 17), noise(2, 5)]
    expected = [by_loops(column, 50, seed=3) for column in columns]
    np.testing.assert_allclose(resampled_means(columns, 50, seed=3), expected, atol=1e-11)


def test_units_without_a_value_are_left_out():
    column = noise(0, 40)
    column[::3] = np.nan
    np.testing.assert_allclose(resampled_means([column], 50, seed=3)[0], by_loops(column, 50, seed=3), atol=1e-11)


def test_blocks_of_draws_do_not_change_them(monkeypatch):
    column = noise(0, 101)
    at_once = resampled_means([column], 30)
    monkeypatch.setattr(statistics, "_ENTRIES_AT_ONCE", 101 * 7)
    np.testing.assert_array_equal(resampled_means([column], 30), at_once)


def test_draws_depend_on_the_number_of_units_alone():
    shared, other = noise(0, 30), noise(1, 30)
    alone = resampled_means([shared])
    np.testing.assert_array_equal(resampled_means([other, noise(2, 12), shared])[2], alone[0])


@given(st.floats(-1e3, 1e3), st.integers(2, 30))
def test_shifted_values_shift_every_replicate(shift, units):
    values = noise(0, units)
    np.testing.assert_allclose(
        resampled_means([values + shift], 20)[0] - resampled_means([values], 20)[0], shift, atol=1e-8
    )


def test_equal_rows_have_equal_replicates_wherever_they_stand():
    values = noise(0, 1000)
    found = resampled_means([values, *noise(1, 30, 1000), values])
    np.testing.assert_array_equal(found[0], found[-1])


def test_spread_is_that_of_a_mean():
    values = noise(0, 500)
    assert np.std(resampled_means([values], 4000)[0]) == pytest.approx(values.std() / np.sqrt(500), rel=0.05)


def test_ninety_five_of_a_hundred_intervals_hold_the_mean():
    lows, highs = interval(resampled_means(list(noise(0, 2000, 60))))
    covered = np.mean((lows <= 0) & (highs >= 0))
    assert 0.92 < covered < 0.97


def test_interval_of_a_known_list_is_numpys_percentile():
    assert tuple(map(float, interval(np.arange(101.0)))) == pytest.approx((2.5, 97.5))


def test_one_seed_is_not_drawn():
    replicates = noise(0, 1, 20)
    np.testing.assert_array_equal(over_seeds(replicates), replicates[0])


def test_seeds_are_drawn_with_replacement():
    constants = np.repeat([[0.0], [1.0]], 1000, axis=1)  # two seeds: the mean is 0, 1/2 or 1 with chances 1:2:1
    found = over_seeds(constants)
    assert set(found) == {0.0, 0.5, 1.0}
    assert np.mean(found == 0.5) == pytest.approx(0.5, abs=0.05)


def test_seed_and_image_spread_add_up():
    """Var of a mean over S seeds that each average n images: between/S + within/(S·n)."""
    images = noise(0, 8, 50)
    shifts = np.linspace(-1, 1, 8)[:, None]
    per_seed = list(images + shifts)
    means = np.array([values.mean() for values in per_seed])
    within = np.mean([values.var() for values in per_seed])
    assert bootstrap_means(per_seed, 8000).var() == pytest.approx(means.var() / 8 + within / (8 * 50), rel=0.1)


def test_images_shared_by_seeds_do_not_average_out():
    """Three seeds with the same values are one measurement, not three."""
    values = noise(0, 60)
    one, three = bootstrap_means([values]), bootstrap_means([values, values, values])
    np.testing.assert_allclose(one, three, atol=1e-11)


def test_paired_difference_is_the_interval_of_the_differences():
    old, new = noise(0, 40), noise(1, 40)
    differences = [np.mean((new - old)[draw]) for draw in draws_of(40)]
    low, high = np.percentile(differences, [2.5, 97.5])
    assert paired_difference([old], [new]) == pytest.approx(((new - old).mean(), low, high), abs=1e-10)


def draws_of(units):
    generator = np.random.default_rng([statistics.DRAW_SEED, units])
    return [generator.integers(0, units, units) for _ in range(statistics.RESAMPLES)]


def test_a_constant_shift_has_an_interval_without_width():
    values = noise(0, 30)
    assert paired_difference([values], [values + 0.25]) == pytest.approx((0.25, 0.25, 0.25), abs=1e-9)


def test_pairs_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="broadcast"):
        paired_difference([noise(0, 3)], [noise(0, 4)])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_ranks_are_scipys_competition_ranks(values):
    array = np.array(values, dtype=np.float64)
    np.testing.assert_array_equal(ranks(array, "lower"), rankdata(array, method="min"))
    np.testing.assert_array_equal(ranks(array, "higher"), rankdata(-array, method="min"))


def test_rank_intervals_agree_with_ranking_each_replicate():
    replicates = noise(0, 6, 200) + np.arange(6)[:, None] * 0.7
    every = np.array([rankdata(-column, method="min") for column in replicates.T]).T
    low, high = rank_intervals(replicates, "higher")
    np.testing.assert_array_equal(low, np.sort(every, axis=1)[:, int(0.025 * 199)])
    np.testing.assert_array_equal(high, np.sort(every, axis=1)[:, -1 - int(0.025 * 199)])


def test_rows_that_never_change_places_have_ranks_without_width():
    shared = noise(0, 1, 300)
    low, high = rank_intervals(np.concatenate([shared, shared + 1e-6, shared + 2e-6]), "lower")
    assert low.tolist() == high.tolist() == [1, 2, 3]


def test_tiers_keep_their_anchor():
    """B reaches A and C reaches B, but C does not reach A: C opens a tier of its own."""
    values = np.array([3.0, 2.5, 2.0])
    assert tiers(values, values - 0.4, values + 0.4, "higher").tolist() == [1, 1, 2]


def test_a_row_that_touches_the_anchor_joins():
    assert tiers(np.array([3.0, 1.0]), np.array([2.0, 0.0]), np.array([4.0, 2.0]), "higher").tolist() == [1, 1]


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 2)), min_size=1, max_size=10))
def test_tiers_mirror_when_lower_is_better(rows):
    values, reach = (np.array(column) for column in zip(*rows, strict=True))
    up = tiers(values, values - reach, values + reach, "higher")
    down = tiers(-values, -values - reach, -values + reach, "lower")
    assert up.tolist() == down.tolist()


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 2)), min_size=1, max_size=10, unique_by=lambda row: row[0]))
def test_tiers_agree_with_the_walk_as_written(rows):
    """From the best row down, the anchor of a tier being the low end of its first row."""
    ordered = sorted(rows, reverse=True)
    expected, tier, anchor = [], 0, None
    for value, reach in ordered:
        if anchor is None or value + reach < anchor:
            tier, anchor = tier + 1, value - reach
        expected.append(tier)
    values, reach = (np.array(column) for column in zip(*ordered, strict=True))
    assert tiers(values, values - reach, values + reach, "higher").tolist() == expected
