"""Every rule of the boards: what is ranked, what is shown, and how the files are written and read."""

import csv
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.leaderboard import BoardError, build, load_board, load_boards, load_results, write
from bench.leaderboard.schema import BRIEF, COLUMNS, KINDS, from_csv, table, to_csv
from bench.leaderboard.statistics import bootstrap_means, interval, rank_intervals, tiers
from bench.record import Cost, Store
from tests.right.making import boards_of, index_of, measured, noise, reading, record

# Section 2 of the leaderboard specification, copied column by column.
SPECIFIED = [
    "suite_version",
    "track",
    "dataset",
    "split",
    "subject",
    "method",
    "condition",
    "variant",
    "method_version",
    "metric",
    "metric_version",
    "seed",
    "aggregate",
    "value",
    "unit",
    "higher_is_better",
    "n_expected",
    "n_scored",
    "n_reference",
    "n_seeds",
    "std",
    "ci_low",
    "ci_high",
    "ci_level",
    "ci_method",
    "status",
    "error",
    "wall_s",
    "gpu_s",
    "gpu_peak_mib",
    "forward_passes",
    "backward_passes",
    "n_images",
    "img_size",
    "crop_pct",
    "interpolation",
    "antialias",
    "batch_size",
    "precision",
    "deterministic",
    "cudnn_benchmark",
    "gpu_name",
    "gpu_count",
    "driver",
    "cuda",
    "cudnn",
    "python",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "lpips",
    "skimage",
    "weights_sha256",
    "data_sha256",
    "config_sha256",
    "metric_sha256",
    "artifact_sha256",
    "code_sha",
    "code_dirty",
    "run_id",
    "cell_id",
    "started_utc",
    "host",
    "source",
    "selftest",
]

GOOD, MIDDLE, BAD = (noise(seed, 3, 40) * 0.1 + level for seed, level in ((0, 0.9), (1, 0.5), (2, 0.1)))


def three_methods():
    return [*measured("good", GOOD), *measured("middle", MIDDLE), *measured("bad", BAD)]


def wide(boards, track="reconstruction"):
    return boards.wide[track].set_index("method")


def test_a_line_measured_while_the_selftest_failed_stands_last_without_a_rank_but_with_its_numbers():
    failed = measured("good", GOOD)
    doubted = failed[1][0].model_copy(update={"provenance": {**failed[1][0].provenance, "selftest": "fail"}})
    failed[1] = (doubted, failed[1][1])
    boards = boards_of([*failed, *measured("middle", MIDDLE), *measured("bad", BAD)])
    board = boards.wide["reconstruction"]
    assert board["method"].tolist() == ["middle", "bad", "good"]
    assert board["rank"].tolist() == [1, 2, pd.NA]
    assert board["ssim"].iloc[2] == pytest.approx(GOOD.mean())
    (unranked,) = boards.sidecars["reconstruction"]["unranked"]
    assert (unranked["method"], unranked["reason"]) == ("good", "selftest failed")
    long = boards.long[boards.long["method"] == "good"]
    assert long["aggregate"].tolist() == ["mean", "seed", "seed", "seed"]
    assert long["selftest"].tolist() == ["fail", "skipped", "fail", "skipped"]


def test_a_cell_that_could_not_be_measured_is_not_doubted():
    crashed = record("good", 3, status="failed", provenance={"selftest": "fail"})
    boards = boards_of([*measured("good", GOOD), (crashed, {})])
    (unranked,) = boards.sidecars["reconstruction"]["unranked"]
    assert unranked["reason"] == "3 of 4 cells ok"


# ---- results.csv ---------------------------------------------------------------------------------------------------


def test_columns_are_those_of_the_specification():
    assert [column.name for column in COLUMNS] == SPECIFIED
    assert list(boards_of(three_methods()).long.columns) == SPECIFIED


def test_one_row_a_seed_and_one_for_their_mean():
    long = boards_of(measured("good", GOOD)).long
    assert long["aggregate"].tolist() == ["mean", "seed", "seed", "seed"]
    assert long["seed"].tolist() == [pd.NA, 0, 1, 2]
    means = [values.mean() for values in GOOD]
    assert long["value"].tolist() == pytest.approx([np.mean(means), *means], rel=1e-12)
    assert long["std"].iloc[0] == pytest.approx(np.std(means, ddof=1))
    assert long["std"].iloc[1:].isna().all()
    assert long["n_seeds"].tolist() == [3, 1, 1, 1]


def test_what_a_record_says_stands_in_its_row():
    row = boards_of(measured("good", GOOD[:1])).long.iloc[1]
    assert row["weights_sha256"] == "0012345"
    assert (row["batch_size"], row["precision"], row["torch"], row["deterministic"]) == (64, "fp32", "2.15.0", True)
    assert (row["wall_s"], row["forward_passes"], row["n_images"]) == (1.5, 10, 4)
    assert (row["unit"], row["higher_is_better"], row["n_scored"]) == ("fraction", True, 40)
    assert row["cell_id"] == record("good").key
    assert (row["source"], row["gpu_name"], pd.isna(row["gpu_s"])) == ("measured", "", True)
    assert len(row["config_sha256"]) == 64


def test_a_mean_row_says_only_what_its_seeds_agree_on():
    made = [
        (record(seed=seed, readings=[reading()], conditions={"torch": torch, "precision": "fp32"}), {})
        for seed, torch in ((0, "2.14"), (1, "2.15"))
    ]
    mean = boards_of(made).long.iloc[0]
    assert (mean["precision"], mean["torch"], mean["cell_id"]) == ("fp32", "", "")


def test_costs_of_a_mean_row():
    costs = [Cost(wall_s=1.0, gpu_peak_mib=10.0), Cost(wall_s=2.0, gpu_peak_mib=30.0)]
    made = [(record(seed=seed, readings=[reading()], cost=cost), {}) for seed, cost in enumerate(costs)]
    mean = boards_of(made).long.iloc[0]
    assert (mean["wall_s"], mean["gpu_peak_mib"], pd.isna(mean["gpu_s"])) == (1.5, 30.0, True)


def test_rows_are_unique():
    one, two = record(key="a", readings=[reading()]), record(key="b", readings=[reading()])
    with pytest.raises(BoardError, match=r"two cells of the board are one row: .*\n  name their settings as variants"):
        boards_of([(one, {}), (two, {})])


def test_settings_tell_rows_apart_on_the_long_board_but_not_on_the_wide_one():
    one = record(key="a", readings=[reading()], settings={"step": 1})
    long = boards_of([(one, {})]).long
    other = boards_of([(one.model_copy(update={"settings": {"step": 2}}), {})]).long
    assert long["config_sha256"].iloc[0] != other["config_sha256"].iloc[0]


@pytest.mark.parametrize(("value", "reason"), [(float("inf"), "not finite"), (float("nan"), "not finite"), (None, "")])
def test_numbers_that_are_not_finite_are_undefined_with_a_reason(value, reason):
    row = boards_of([(record(readings=[reading(value)]), {})]).long.iloc[1]
    assert (row["status"], pd.isna(row["value"])) == ("undefined", True)
    assert reason in row["error"] and row["error"]


def test_a_metrics_own_reason_is_kept():
    one = reading(None, status="undefined", error="a pair needs 2 images\nsecond line")
    row = boards_of([(record(readings=[one]), {})]).long.iloc[1]
    assert (row["status"], row["error"]) == ("undefined", "a pair needs 2 images")


def test_errors_are_one_line_of_at_most_200_characters():
    one = record(status="failed", error="x" * 300 + "\nmore")
    assert boards_of([(one, {})]).long["error"].tolist() == ["x" * 200] * 2


@pytest.mark.parametrize("status", ["skipped", "unsupported", "diverged", "failed", "oom", "timeout", "interrupted"])
def test_a_cell_without_result_is_visible_and_empty(status):
    boards = boards_of([*measured("good", GOOD), (record("broken", status=status, error="why"), {})])
    rows = boards.long[boards.long["method"] == "broken"]
    assert rows["status"].tolist() == [status] * 2
    assert rows["value"].isna().all() and rows["metric"].tolist() == ["ssim"] * 2
    line = wide(boards).loc["broken"]
    assert pd.isna(line["ssim"]) and pd.isna(line["rank"]) and (line["n_ok"], line["n_cells"]) == (0, 1)
    (failure,) = boards.sidecars["reconstruction"]["not_ok"]
    assert (failure["method"], failure["status"], failure["error"]) == ("broken", status, "why")


def test_a_value_of_the_wrong_type_names_its_column():
    with pytest.raises(BoardError, match="column batch_size should hold Int64"):
        boards_of([(record(readings=[reading()], conditions={"batch_size": "many"}), {})])


# ---- intervals -----------------------------------------------------------------------------------------------------


def test_intervals_of_seeds_and_of_their_mean_are_the_bootstraps():
    long = boards_of(measured("good", GOOD)).long
    expected = [interval(bootstrap_means(list(GOOD))), *(interval(bootstrap_means([values])) for values in GOOD)]
    np.testing.assert_allclose(long[["ci_low", "ci_high"]], expected, rtol=1e-11)
    assert long["ci_method"].tolist() == ["bootstrap_image_seed_1000", *["bootstrap_image_1000"] * 3]
    assert long["ci_level"].tolist() == [0.95] * 4


def test_a_metric_of_classes_says_so():
    card = {"per": "class", "resample": "class"}
    assert boards_of(measured("good", GOOD[:1], card=card)).long["ci_method"].tolist() == ["bootstrap_class_1000"] * 2


def set_metric(method, value, replicates, **card):
    one = reading(value, per="set", replicates="ssim", **card)
    return [(record(method, readings=[one]), {"ssim": replicates})]


def test_replicates_of_a_set_metric_are_used_as_they_are():
    replicates = 5 + noise(0, 200)
    long = boards_of(set_metric("one", 5.0, replicates)).long
    low, high = np.percentile(replicates, [2.5, 97.5])
    assert long[["ci_low", "ci_high"]].iloc[1].tolist() == pytest.approx([low, high])
    assert long["ci_method"].iloc[1] == "bootstrap_image_200"


def test_replicates_of_several_seeds_are_averaged_over_drawn_seeds():
    replicates = [noise(seed, 200) for seed in (0, 1)]
    made = [
        (record(seed=seed, readings=[reading(0.0, per="set", replicates="ssim")]), {"ssim": one})
        for seed, one in enumerate(replicates)
    ]
    mean = boards_of(made).long.iloc[0]
    spread = 2 * 1.96 * np.sqrt(1 / 2 + np.var([one.mean() for one in replicates]) / 2)
    assert mean["ci_method"] == "bootstrap_image_seed_200"
    assert mean["ci_high"] - mean["ci_low"] == pytest.approx(spread, rel=0.35)


def test_a_biased_set_metric_keeps_its_value_inside_its_interval():
    """Fréchet distances grow under resampling: all replicates may lie above the value."""
    replicates = 9 + 0.1 * noise(0, 200)
    row = boards_of(set_metric("one", 5.0, replicates, better="lower")).long.iloc[1]
    low, high = np.percentile(replicates - replicates.mean() + 5, [2.5, 97.5])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high))
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["ci_method"] == "bootstrap_image_200_centred"


def test_without_units_only_the_seeds_spread_counts():
    made = [(record(seed=seed, readings=[reading(float(seed), resample="none")]), {}) for seed in range(3)]
    long = boards_of(made).long
    assert long["ci_method"].tolist() == ["bootstrap_seed_1000", "", "", ""]
    assert (long["ci_low"].iloc[0], long["ci_high"].iloc[0]) == (0.0, 2.0)
    assert boards_of(made[:1]).long["ci_low"].isna().all()


def test_one_unit_says_nothing_about_spread():
    assert boards_of(measured("good", [np.array([0.5])])).long["ci_low"].isna().all()


def test_units_without_a_value_are_dropped():
    values = GOOD[0].copy()
    values[5:] = np.nan
    row = boards_of(measured("good", [values])).long.iloc[1]
    assert row["ci_low"] < values[:5].mean() < row["ci_high"]
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(map(float, interval(bootstrap_means([values])))))


# ---- ranks and tiers -----------------------------------------------------------------------------------------------


def test_ranks_their_intervals_and_tiers_are_those_of_the_statistics():
    near = GOOD - 0.005
    made = [*three_methods(), *measured("near", near)]
    board = wide(boards_of(made))
    names = ["good", "near", "middle", "bad"]
    per_seed = [GOOD, near, MIDDLE, BAD]
    replicates = np.stack([bootstrap_means(list(values)) for values in per_seed])
    low, high = rank_intervals(replicates, "higher")
    ends = np.stack(interval(replicates), axis=1)
    values = np.array([values.mean() for values in per_seed])
    expected = np.stack([low, high, tiers(values, ends[:, 0], ends[:, 1], "higher")], axis=1)
    assert board.index.tolist() == names
    assert board["rank"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(board[["rank_low", "rank_high", "tier"]].astype(int), expected)
    assert board["tier"].tolist() == [1, 1, 2, 3]
    # The same images: a constant handicap never changes places, though the two intervals overlap.
    assert board.loc["near", ["rank_low", "rank_high"]].tolist() == [2, 2]


def test_lower_is_better_turns_the_board_round():
    made = [*measured("good", GOOD, card={"better": "lower"}), *measured("bad", BAD, card={"better": "lower"})]
    board = wide(boards_of(made))
    assert board.index.tolist() == ["bad", "good"] and board["rank"].tolist() == [1, 2]
    assert board["tier"].tolist() == [1, 2]


def test_equal_methods_share_a_rank():
    board = wide(boards_of([*measured("a", GOOD), *measured("b", GOOD), *measured("c", BAD)]))
    assert board["rank"].tolist() == [1, 1, 3]
    assert board["rank_high"].tolist() == [1, 1, 3]


def test_ranks_compare_one_dataset_subject_and_condition_only():
    made = [
        *measured("good", GOOD),
        *measured("bad", BAD),
        *measured("bad", BAD, condition="layer4"),
        *measured("bad", BAD, subject="mlp"),
        *measured("bad", BAD, dataset="mnist", card={}),
    ]
    made = [(one.model_copy(update={"key": f"cell{place}"}), values) for place, (one, values) in enumerate(made)]
    boards = boards_of(made)
    assert boards.wide["reconstruction"]["rank"].tolist() == [1, 2, 1, 1, 1]
    assert boards.sidecars["reconstruction"]["comparisons"] == 1


def test_a_metric_without_direction_ranks_nobody():
    board = wide(
        boards_of([*measured("b", GOOD, card={"better": "neither"}), *measured("a", BAD, card={"better": "neither"})])
    )
    assert board["rank"].isna().all() and board["tier"].isna().all()
    assert board.index.tolist() == ["a", "b"]


def test_an_incomplete_line_has_no_rank_and_is_last():
    made = [*measured("best", GOOD[:2] + 1), *three_methods()]
    boards = boards_of([*made, (record("best", seed=2, status="oom", error="no memory"), {})])
    board = wide(boards)
    assert board.index.tolist() == ["good", "middle", "bad", "best"]
    last = board.loc["best"]
    assert (last["n_seeds"], last["n_ok"], last["n_cells"]) == (2, 2, 3)
    assert pd.isna(last["rank"]) and last["ssim"] == pytest.approx((GOOD[:2] + 1).mean())
    (unranked,) = boards.sidecars["reconstruction"]["unranked"]
    assert unranked["reason"] == "2 of 3 cells ok"


def test_a_missing_cell_is_not_filled():
    boards = boards_of(measured("good", GOOD[:2]), planned=[record("good", seed=2), record("new")])
    board = wide(boards)
    assert (board.loc["good", "n_ok"], board.loc["good", "n_cells"]) == (2, 3)
    assert pd.isna(board.loc["good", "rank"])
    assert board.loc["new"].isna()[["rank", "ssim", "wall_s"]].all()
    assert len(boards.long) == 3
    missing = boards.sidecars["reconstruction"]["missing"]
    assert [(one["method"], one["seed"]) for one in missing] == [("good", 2), ("new", 0)]


def test_a_seed_without_the_ranking_value_keeps_its_line_unranked():
    made = measured("good", GOOD[:1])
    made += [(record("good", seed=1, readings=[reading(None, status="undefined", error="why")]), {})]
    boards = boards_of(made)
    assert wide(boards).loc["good", "n_ok"] == 2 and pd.isna(wide(boards).loc["good", "rank"])
    assert boards.sidecars["reconstruction"]["unranked"][0]["reason"] == "ssim has a value for 1 of 2 seeds"


def test_reference_lines_are_shown_and_never_ranked():
    boards = boards_of([*measured("real_images", GOOD + 1, is_reference=True), *measured("good", GOOD)])
    board = wide(boards)
    assert board.index.tolist() == ["real_images", "good"]
    assert pd.isna(board.loc["real_images", "rank"]) and board.loc["good", "rank"] == 1
    assert [row["method"] for row in boards.sidecars["reconstruction"]["reference_rows"]] == ["real_images"]


def test_figures_from_papers_are_not_ranked_with_measured_ones():
    made = [*measured("paper", GOOD, provenance={"source": "paper"}), *measured("good", BAD)]
    board = wide(boards_of(made))
    assert pd.isna(board.loc["paper", "rank"]) and board.loc["good", "rank"] == 1


def test_an_older_metric_version_does_not_count():
    made = [*measured("new", GOOD, card={"metric_version": 10}), *measured("old", GOOD, card={"metric_version": 9})]
    boards = boards_of(made)
    assert pd.isna(wide(boards).loc["old", "ssim"]) and wide(boards).loc["new", "rank"] == 1
    assert set(boards.long["metric_version"]) == {"9", "10"}
    assert boards.sidecars["reconstruction"]["metrics"][0]["version"] == 10


def test_rows_of_a_line_stand_in_the_order_of_their_versions():
    made = [(record(seed=seed, readings=[reading(metric_version=10 - seed)]), {}) for seed in (0, 1)]
    assert boards_of(made).long["metric_version"].tolist() == ["9", "9", "10", "10"]


def test_the_digest_of_the_images_is_the_files():
    digests = {"artifacts/images.safetensors": "0099"}
    assert boards_of([(record(readings=[reading()], digests=digests), {})]).long["artifact_sha256"].iloc[1] == "0099"


def test_the_ranking_metric_may_carry_a_referees_name():
    one = [(record("one", readings=[reading(metric="frechet_mlp", stem="frechet")]), {})]
    other = [(record("one", subject="mlp", readings=[reading(metric="frechet_cnn", stem="frechet")]), {})]
    failed = [(record("two", status="failed", error="e"), {})]
    boards = boards_of([*one, *other, *failed], primary={"reconstruction": "frechet"})
    primaries = {group["subject"]: group["primary"] for group in boards.sidecars["reconstruction"]["groups"]}
    assert primaries == {"cnn.digits.sgd": "frechet_mlp", "mlp": "frechet_cnn"}
    assert set(boards.long.loc[boards.long["method"] == "two", "metric"]) == {"frechet_mlp"}
    assert boards.wide["reconstruction"]["rank"].tolist() == [1, pd.NA, 1]


def test_rows_of_other_sizes_are_compared_and_said_to_be_unpaired():
    boards = boards_of([*measured("good", GOOD), *measured("bad", BAD[:, :30])])
    assert boards.sidecars["reconstruction"]["groups"][0]["paired"] is False
    assert wide(boards)["tier"].tolist() == [1, 2]
    assert boards_of(three_methods()).sidecars["reconstruction"]["groups"][0]["paired"] is True


def test_without_intervals_there_are_ranks_alone():
    boards = boards_of(three_methods(), intervals=False)
    assert wide(boards)["rank"].tolist() == [1, 2, 3]
    assert wide(boards)[["rank_low", "rank_high", "tier"]].isna().all(axis=None)
    assert boards.long["ci_low"].isna().all() and set(boards.long["ci_method"]) == {""}


def test_the_sidecar_counts_comparisons_and_names_overridden_gates():
    made = three_methods()
    made[0] = (made[0][0].model_copy(update={"notes": {"gate_overridden": True}}), made[0][1])
    side = boards_of(made).sidecars["reconstruction"]
    assert side["comparisons"] == 3
    assert side["gate_overridden"] == ["cnn.digits.sgd"]
    assert (side["primary"], side["suite_version"], side["protocol"]) == ("ssim", "1.0.0", 1)
    (metric,) = side["metrics"]
    assert (metric["unit"], metric["better"], metric["decimals"], metric["n_scored"]) == ("fraction", "higher", 4, [40])


def with_lpips(method: str, status: str, error: str, value: float | None = None):
    lpips = reading(value, metric="lpips", stem="lpips", status=status, error=error)
    return record(method, readings=[reading(0.5), lpips]), {}


def test_a_metric_that_no_line_has_a_value_of_has_no_column_but_a_reason():
    needs = "needs FILE, fetch with: run_bench.py fetch lpips"
    boards = boards_of([with_lpips("one", "unsupported", needs), with_lpips("two", "unsupported", needs)])
    side = boards.sidecars["reconstruction"]
    assert "ssim" in wide(boards).columns and "lpips" not in wide(boards).columns
    assert [metric["metric"] for metric in side["metrics"]] == ["ssim"]
    assert side["without_value"] == [
        {"metric": "lpips", "stem": "lpips", "version": 1, "status": "unsupported", "error": needs}
    ]
    rows = boards.long[(boards.long["metric"] == "lpips") & (boards.long["aggregate"] == "seed")]
    assert set(rows["method"]) == {"one", "two"}
    assert set(rows["status"]) == {"unsupported"} and set(rows["error"]) == {needs}


def test_a_metric_that_one_line_has_a_value_of_keeps_its_column():
    boards = boards_of([with_lpips("one", "unsupported", "needs FILE"), with_lpips("two", "ok", "", 0.25)])
    assert sorted(wide(boards)["lpips"].dropna()) == [0.25]
    assert boards.sidecars["reconstruction"]["without_value"] == []


def test_the_metric_that_ranks_keeps_its_column_without_any_value():
    unranked = record("one", readings=[reading(None, status="unsupported", error="needs FILE")])
    boards = boards_of([(unranked, {})])
    assert wide(boards)["ssim"].isna().all()
    assert boards.sidecars["reconstruction"]["without_value"] == []


def test_a_metric_that_is_called_like_a_column_is_refused():
    with pytest.raises(BoardError, match="metric 'wall_s' has the name of another column"):
        boards_of([(record(readings=[reading(metric="wall_s")]), {})])


# ---- files ---------------------------------------------------------------------------------------------------------


def test_wide_columns_stand_in_the_order_of_the_specification(tmp_path):
    boards = boards_of([(record(readings=[reading(), reading(1.0, metric="a_metric")]), {})])
    write(boards, tmp_path)
    head = (tmp_path / "reconstruction.csv").read_text().splitlines()[0]
    assert head == (
        "dataset,subject,condition,rank,rank_low,rank_high,tier,method,variant,method_version,"
        "ssim,ssim_ci_low,ssim_ci_high,a_metric,a_metric_ci_low,a_metric_ci_high,"
        "n_seeds,n_ok,n_cells,wall_s,gpu_peak_mib,suite_version,updated_utc"
    )


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path):
    made = [*three_methods(), (record("broken", status="failed", error="e"), {})]
    for place, order in enumerate((made, made[::-1], made[3:] + made[:3])):
        write(boards_of(order), tmp_path / str(place))
    first = {path.name: path.read_bytes() for path in (tmp_path / "0").iterdir()}
    assert set(first) == {
        "results.csv", "results.min.csv", "reconstruction.csv", "reconstruction.json", "schema.json"
    }  # fmt: skip
    for other in ("1", "2"):
        assert {path.name: path.read_bytes() for path in (tmp_path / other).iterdir()} == first


def test_files_are_utf8_with_line_feeds_and_an_end(tmp_path):
    made = [(record("größe", readings=[reading()]), {})]
    for path in write(boards_of(made), tmp_path):
        data = path.read_bytes()
        assert data.decode() and not data.startswith(b"\xef\xbb\xbf")
        assert data.endswith(b"\n") and b"\r" not in data


def test_wide_numbers_have_fixed_decimals(tmp_path):
    one = reading(0.123456789, decimals=2)
    zero = reading(-1e-9, metric="zero", decimals=3)
    write(boards_of([(record(readings=[one, zero], cost=Cost(wall_s=1234.5, gpu_peak_mib=0.25)), {})]), tmp_path)
    (row,) = csv.DictReader(StringIO((tmp_path / "reconstruction.csv").read_text()))
    assert (row["ssim"], row["zero"], row["wall_s"], row["gpu_peak_mib"]) == ("0.12", "0.000", "1234.50", "0.2")
    assert (row["ssim_ci_low"], row["n_seeds"], row["rank"]) == ("", "1", "1")
    assert row["updated_utc"] == "2026-09-01T00:00:00Z"


def test_the_time_of_a_line_is_its_latest_record(tmp_path):
    assert wide(boards_of(measured("good", GOOD))).loc["good", "updated_utc"] == "2026-09-01T00:00:02Z"


def test_long_numbers_come_back_exactly(tmp_path):
    values = [0.1 + 0.2, 1e-300, 123456789.12345679, float(np.float32(0.1))]
    made = [(record(seed=seed, readings=[reading(value)]), {}) for seed, value in enumerate(values)]
    write(boards_of(made), tmp_path)
    long = load_results(tmp_path)
    assert long.loc[long["aggregate"] == "seed", "value"].tolist() == values


def test_what_is_loaded_is_what_was_written(tmp_path):
    boards = boards_of([*three_methods(), (record("broken", status="oom", error="e"), {})])
    write(boards, tmp_path)
    pd.testing.assert_frame_equal(load_results(tmp_path), boards.long)
    pd.testing.assert_frame_equal(load_results(tmp_path / "results.csv"), boards.long)
    board = load_board(tmp_path / "reconstruction.csv")
    pd.testing.assert_frame_equal(board, boards.wide["reconstruction"], rtol=0, atol=5.1e-3)
    again = load_boards(tmp_path)
    assert dict(again.sidecars) == json.loads(json.dumps(dict(boards.sidecars)))
    assert dict(load_results(tmp_path).dtypes.astype(str)) == dict(KINDS)


def test_the_brief_file_is_the_long_one_with_fewer_columns(tmp_path):
    boards = boards_of(three_methods())
    write(boards, tmp_path)
    pd.testing.assert_frame_equal(
        from_csv(tmp_path / "results.min.csv", {name: KINDS[name] for name in BRIEF}), boards.long[BRIEF]
    )
    assert len(BRIEF) == 22


@pytest.mark.parametrize(
    "name", ["NA", "None", "null", "nan", "0012345", "1e99999", "=1+1", "a,b", 'a"b', "a\nb", " ä "]
)
def test_names_survive_the_file(tmp_path, name):
    write(boards_of([(record(name, key="k", variant=name, readings=[reading()]), {})]), tmp_path)
    long, board = load_results(tmp_path), load_board(tmp_path / "reconstruction.csv")
    assert set(long["method"]) == set(long["variant"]) == set(board["method"]) == {name}
    rows = list(csv.DictReader((tmp_path / "results.csv").open(newline="", encoding="utf-8")))
    assert {row["method"] for row in rows} == {name}


@settings(max_examples=60)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_text_and_any_number_survive_the_file(tmp_path_factory, text, number):
    path = tmp_path_factory.mktemp("any") / "t.csv"
    kinds = {"text": "str", "number": "float64", "whole": "Int64", "flag": "boolean"}
    frame = table([{"text": text, "number": number, "whole": 3, "flag": True}, {"text": "end"}], kinds)
    path.write_bytes(to_csv(frame))
    pd.testing.assert_frame_equal(from_csv(path, kinds), frame)


def test_whole_numbers_with_gaps_stay_whole(tmp_path):
    write(boards_of(measured("good", GOOD[:1])), tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["seed"] for row in rows] == ["", "0"] and rows[1]["n_scored"] == "40"


def test_a_number_that_is_not_finite_is_refused_on_reading(tmp_path):
    write(boards_of(measured("good", GOOD[:1])), tmp_path)
    path = tmp_path / "results.csv"
    value = repr(float(GOOD[0].mean()))
    assert value in path.read_text()
    path.write_text(path.read_text().replace(value, "1e99999"))
    with pytest.raises(BoardError, match=r"number in column value that is not finite\n  make it again"):
        load_results(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a,b\n1,2\n", "has other columns"), ("", "cannot be read"), ("\xff", "other columns"), (None, "cannot be read")],
)
def test_a_file_that_is_no_board_is_a_clear_error(tmp_path, content, reason):
    path = tmp_path / "results.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BoardError, match=reason):
        load_results(path)


def test_a_cut_off_file_is_a_clear_error(tmp_path):
    write(boards_of(measured("good", GOOD)), tmp_path)
    path = tmp_path / "results.csv"
    path.write_text(path.read_text() + '"half a row')
    with pytest.raises(BoardError, match="cannot be read"):
        load_results(path)


@pytest.mark.parametrize(("metrics", "found"), [(5, "int"), (["reconstruction"], "list"), (None, "NoneType")])
def test_a_schema_whose_metrics_are_no_object_is_a_clear_error(tmp_path, metrics, found):
    write(boards_of(measured("good", GOOD)), tmp_path)
    (tmp_path / "schema.json").write_text(json.dumps({"metrics": metrics}))
    with pytest.raises(BoardError, match=rf"metrics should be an object, got {found}\n  make it again with `rank`"):
        load_boards(tmp_path)


def test_the_schema_names_types_units_and_directions(tmp_path):
    write(boards_of(three_methods()), tmp_path)
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert list(schema["results"]) == SPECIFIED
    assert schema["results"]["wall_s"] == {"type": "float64", "meaning": "the method alone", "unit": "s"}
    (metric,) = schema["metrics"]["reconstruction"]
    assert (metric["metric"], metric["unit"], metric["better"]) == ("ssim", "fraction", "higher")


# ---- from a store --------------------------------------------------------------------------------------------------


def store_with(tmp_path: Path, made) -> Store:
    store = Store.create(tmp_path / "store")
    for one, values in made:
        store.commit(one, values, store.stage(one.key))
    store.write_index(index_of([one for one, _ in made]))
    return store


def test_a_store_gives_the_boards_of_its_records(tmp_path):
    made = three_methods()
    boards = build(store_with(tmp_path, made), "smoke")
    expected = boards_of(made)
    pd.testing.assert_frame_equal(boards.long, expected.long)
    assert boards.sidecars == expected.sidecars
    np.testing.assert_array_equal(boards.samples(made[0][0].key)["ssim"].numbers, GOOD[0])
    assert boards.samples("nothing") == {}


def test_a_damaged_record_is_named_and_leaves_its_line_unranked(tmp_path):
    made = three_methods()
    store = store_with(tmp_path, made)
    (store.cell(made[0][0].key) / "record.json").write_text("{")
    boards = build(store, "smoke")
    side = boards.sidecars["reconstruction"]
    assert [one["cell"] for one in side["damaged"]] == [made[0][0].key] and side["missing"] == []
    assert pd.isna(wide(boards).loc["good", "rank"])


def test_released_values_come_back(tmp_path):
    boards = build(store_with(tmp_path, three_methods()), "smoke")
    write(boards, tmp_path / "release", values=True)
    again = load_boards(tmp_path / "release")
    for cell in boards.long["cell_id"].unique():
        if cell:
            kept = boards.samples(cell)["ssim"].numbers.astype(np.float32)  # half the size; far below any tolerance
            np.testing.assert_array_equal(again.samples(cell)["ssim"].numbers, kept)
            assert again.samples(cell)["ssim"].kind == "units"
    assert again.samples("nothing") == {}


def test_boards_are_made_without_torch():
    script = (
        "import sys, bench.leaderboard, bench.report, bench.record\n"
        "assert not {'torch', 'jinja2', 'scipy', 'bench.contract'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
