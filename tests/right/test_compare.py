"""What ``compare`` calls worse, better, unclear or not comparable."""

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench import contract, leaderboard
from bench.leaderboard import (
    BoardError,
    Tolerance,
    boards_in_both,
    build,
    changes_between,
    load_boards,
    load_changes,
    log_changes,
    worse,
    write,
)
from bench.leaderboard.schema import TIMED_UNITS
from bench.report import print_comparison
from tests.right.making import boards_of, measured, noise, reading, record, stored, with_samples

VALUES = 0.5 + 0.1 * noise(0, 2, 60)


def compare(old, new, *rest, **options):
    """The differences alone."""
    return leaderboard.compare(old, new, *rest, **options).differences


def test_a_board_does_not_differ_from_itself():
    boards = with_samples(measured("one", VALUES))
    assert compare(boards, boards) == []


def test_a_small_shift_on_the_same_images_is_seen_in_pairs():
    """0.01 lower on every image: far inside the images' spread, but the same on each."""
    old, new = with_samples(measured("one", VALUES)), with_samples(measured("one", VALUES - 0.01))
    (found,) = compare(old, new)
    assert (found.kind, found.metric, found.paired) == ("worse", "ssim", True)
    assert (found.low, found.high) == pytest.approx((-0.01, -0.01), abs=1e-9)
    assert found.new - found.old == pytest.approx(-0.01)
    assert worse([found]) == [found]
    assert [one.kind for one in compare(new, old)] == ["better"]


def test_the_same_shift_without_pairs_is_unclear():
    old, new = boards_of(measured("one", VALUES)), boards_of(measured("one", VALUES - 0.01))
    (found,) = compare(old, new)
    assert (found.kind, found.paired, found.low) == ("unclear", False, None)
    assert found.reason.endswith("unpaired)")
    assert worse([found]) == []


def test_intervals_that_do_not_overlap_are_clear_without_pairs():
    old, new = boards_of(measured("one", VALUES)), boards_of(measured("one", VALUES - 0.3))
    (found,) = compare(old, new)
    assert (found.kind, found.paired) == ("worse", False)


def test_lower_is_better_turns_the_verdict_round():
    card = {"better": "lower"}
    old = with_samples(measured("one", VALUES, card=card))
    new = with_samples(measured("one", VALUES - 0.01, card=card))
    assert [one.kind for one in compare(old, new)] == ["better"]


def test_without_a_direction_nothing_is_worse():
    card = {"better": "neither"}
    old = with_samples(measured("one", VALUES, card=card))
    new = with_samples(measured("one", VALUES - 0.3, card=card))
    assert [one.kind for one in compare(old, new)] == ["unclear"]


def test_noise_around_the_old_value_is_unclear():
    new = VALUES + 0.2 * noise(5, 2, 60)
    (found,) = compare(with_samples(measured("one", VALUES)), with_samples(measured("one", new)))
    assert found.kind == "unclear" and found.low < 0 < found.high


def test_a_difference_within_the_tolerance_is_left_out():
    old, new = with_samples(measured("one", VALUES)), with_samples(measured("one", VALUES - 0.0009))
    assert compare(old, new) == []
    assert [one.kind for one in compare(old, new, {"fraction": Tolerance(absolute=1e-4)})] == ["worse"]


@pytest.mark.parametrize(
    ("tolerance", "covered"),
    [(Tolerance(absolute=0.05), True), (Tolerance(relative=0.01), True), (Tolerance(absolute=0.01), False)],
)
def test_the_larger_of_both_tolerances_counts(tolerance, covered):
    assert tolerance.covers(5.0, 5.04) is covered


def test_replicates_are_compared_pair_by_pair():
    shared = noise(0, 200)

    def boards(value, replicates):
        one = reading(
            value, metric="frechet_x", per="set", replicates="r", better="lower", unit="squared feature distance"
        )
        return with_samples([(record(readings=[one]), {"r": replicates})], primary={"reconstruction": "frechet_x"})

    (found,) = compare(boards(10.0, 10 + shared), boards(10.5, 10.5 + shared))
    assert (found.kind, found.paired) == ("worse", True)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))
    assert compare(boards(10.0, 10 + shared), boards(10.09, 10.09 + shared)) == []  # 1 % of ten


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conditions": {"torch": "2.14"}}, "conditions changed: torch 2.14 → 2.15"),
        ({"conditions": {"torch": "2.15", "precision": "bf16"}}, "conditions changed: precision bf16 → none"),
        ({"method_version": 0}, "conditions changed: method_version 0 → 1"),
        ({"card": {"metric_version": 2}}, "conditions changed: metric_version 2 → 1"),
        ({"provenance": {"weights_sha256": "w"}}, "conditions changed: weights_sha256 w → none"),
        ({"provenance": {"data_sha256": "d"}}, "conditions changed: data_sha256 d → none"),
        ({"conditions": {"torch": "2.15", "gpu_name": "GPU"}}, "conditions changed: gpu_name GPU → none"),
    ],
)
def test_numbers_made_under_other_conditions_are_not_compared(changes, reason):
    plain = {"conditions": {"torch": "2.15"}, "provenance": {}}
    old = with_samples(measured("one", VALUES, **(plain | changes)))
    new = with_samples(measured("one", VALUES - 0.3, **plain))
    (found,) = compare(old, new)
    assert (found.kind, found.reason) == ("conditions", reason)


# ---- what a clock gave ---------------------------------------------------------------------------------------------


def timed(*values, unit="ms", better="lower", host="here", gpu="", status="ok"):
    """A latency of several seeds on one machine."""
    made = []
    for seed, value in enumerate(values):
        one = reading(
            value if status == "ok" else None,
            metric="latency",
            unit=unit,
            better=better,
            per="set",
            resample="none",
            status=status,
            error="" if status == "ok" else "no clock",
        )
        conditions, provenance = {"gpu_name": gpu, "torch": "2.15"}, {"host": host}
        made.append((record(seed=seed, readings=[one], conditions=conditions, provenance=provenance), {}))
    return boards_of(made, primary={"reconstruction": "latency"})


def test_the_units_of_clocks_are_those_of_the_contract():
    assert TIMED_UNITS == contract.TIMED_UNITS


@pytest.mark.parametrize("unit", contract.TIMED_UNITS)
def test_a_tenth_slower_is_no_news_on_one_machine_and_more_is_shown_without_an_alarm(unit):
    old = timed(100.0, 100.5, 99.5, unit=unit)
    assert compare(old, timed(109.0, 109.5, 108.5, unit=unit)) == []
    (found,) = compare(old, timed(130.0, 130.5, 129.5, unit=unit))
    assert (found.kind, found.old, found.new) == ("unclear", 100.0, 130.0)
    assert worse([found]) == []


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ({"host": "there"}, "conditions changed: host here → there"),
        ({"gpu": "GPU"}, "conditions changed: gpu_name none → GPU"),
    ],
)
def test_speed_on_another_machine_is_not_compared(machine, reason):
    (found,) = compare(timed(100.0, 100.5, 99.5), timed(300.0, 300.5, 299.5, **machine))
    assert (found.kind, found.reason) == ("conditions", reason)
    assert worse([found]) == []


def test_a_gauge_that_another_machine_lacks_is_no_loss():
    old = timed(100.0, 100.5, unit="MiB", gpu="GPU")
    assert compare(old, timed(None, None, unit="MiB", status="undefined")) == []
    (found,) = compare(old, timed(None, None, unit="MiB", gpu="GPU", status="undefined"))
    assert (found.kind, found.reason) == ("worse", "seed 0: ok → undefined: no clock (and 1 more)")


def test_other_numbers_are_compared_between_machines():
    old = with_samples(measured("one", VALUES, provenance={"host": "here"}))
    new = with_samples(measured("one", VALUES - 0.01, provenance={"host": "there"}))
    assert [one.kind for one in compare(old, new)] == ["worse"]


# ---- training, protocols, statuses ---------------------------------------------------------------------------------


def test_weights_are_the_result_of_training_not_its_condition():
    def boards(values, weights):
        made = measured("sgd", values, track="training", provenance={"weights_sha256": weights})
        return with_samples(made, primary={"training": "ssim"})

    assert [one.kind for one in compare(boards(VALUES, "a"), boards(VALUES - 0.01, "b"))] == ["worse"]


def test_another_protocol_is_one_line_not_a_regression():
    old, new = boards_of(measured("one", VALUES)), boards_of(measured("two", VALUES), suite_version="1.1.0")
    (found,) = compare(old, new)
    assert (found.kind, found.reason) == ("conditions", "conditions changed: suite_version 1.0.0 → 1.1.0")


@pytest.mark.parametrize(
    ("changes", "reason"), [({"protocol": 2}, "protocol 1 → 2"), ({"profile": "full"}, "profile cpu → full")]
)
def test_boards_of_another_protocol_or_profile_are_not_compared(changes, reason):
    found = compare(with_samples(measured("one", VALUES)), with_samples(measured("two", VALUES - 0.3), **changes))
    assert [(one.kind, one.reason) for one in found] == [("conditions", f"conditions changed: {reason}")]


def test_a_cell_that_was_ok_and_is_not_is_worse():
    old = with_samples(measured("one", VALUES))
    new = with_samples([*measured("one", VALUES[:1]), (record("one", seed=1, status="oom", error="no memory"), {})])
    (found,) = compare(old, new)
    assert (found.kind, found.reason) == ("worse", "seed 1: ok → oom: no memory")
    (back,) = compare(new, old)
    assert (back.kind, back.reason) == ("better", "seed 1: oom → ok")


def test_a_cell_that_is_missing_is_worse():
    old = with_samples(measured("one", VALUES))
    new = with_samples(measured("one", VALUES[:1]), planned=[record("one", seed=1)])
    (found,) = compare(old, new)
    assert (found.kind, found.reason) == ("worse", "seed 1: ok → missing")


def test_a_line_that_is_missing_is_worse_and_a_new_one_is_not():
    one, two = boards_of(measured("one", VALUES)), boards_of(measured("two", VALUES))
    gone, new = compare(one, two)
    assert (gone.kind, gone.reason, gone.line[5]) == ("worse", "missing", "one")
    assert (new.kind, new.line[5]) == ("added", "two")


def test_a_cell_that_never_worked_is_no_news():
    failed = boards_of([(record(status="failed", error="e"), {})])
    assert compare(failed, failed) == []


def test_one_alarm_a_line():
    def boards(shift):
        values = VALUES[0] + shift
        both = [reading(values.mean(), metric=name, values=name) for name in ("ssim", "psnr")]
        return with_samples([(record(readings=both), {"ssim": values, "psnr": values})])

    found = compare(boards(0), boards(-0.05))
    assert [one.kind for one in found] == ["worse", "worse"]
    assert len(worse(found)) == 1


def test_one_unit_drawn_anew_never_varies_and_so_raises_no_alarm():
    unit = VALUES[:1, :1]
    old, new = with_samples(measured("one", unit)), with_samples(measured("one", unit - 0.1))
    (found,) = compare(old, new)
    assert (found.kind, found.paired) == ("unclear", False)


def test_the_seed_moves_the_interval_and_not_the_difference():
    old, new = (with_samples(measured("one", VALUES + shift)) for shift in (0, 0.05 * noise(7, 2, 60) - 0.1))
    ends = {(one.low, one.high) for seed in range(3) for one in compare(old, new, seed=seed)}
    assert len(ends) == 3
    assert all(low == pytest.approx(-0.1, abs=0.03) for low, _ in ends)


# ---- where samples come from, and several boards -------------------------------------------------------------------


def test_values_in_the_folder_make_a_comparison_paired(tmp_path):
    old, new = with_samples(measured("one", VALUES)), with_samples(measured("one", VALUES - 0.01))
    write(old, tmp_path / "with", values=True)
    write(old, tmp_path / "without")
    assert [one.paired for one in compare(load_boards(tmp_path / "with"), new)] == [True]
    assert [one.paired for one in compare(load_boards(tmp_path / "without"), new)] == [False]
    write(old, tmp_path / "with")
    assert not (tmp_path / "with" / "values.safetensors.xz").exists(), "of earlier boards"


def test_values_come_from_a_store_only_while_it_says_what_the_table_says(tmp_path):
    store = stored(tmp_path / "store", measured("one", VALUES))
    write(build(store, "smoke"), tmp_path / "old")
    same = leaderboard.compare(load_boards(tmp_path / "old", store), build(store, "smoke"))
    assert (same.differences, same.paired, same.unpaired) == ([], 1, 0)

    stored(tmp_path / "store", measured("one", VALUES - 0.01))  # the same cells, run again: other values, equal keys
    found = leaderboard.compare(load_boards(tmp_path / "old", store), build(store, "smoke"))
    assert [(one.kind, one.paired) for one in found.differences] == [("unclear", False)]
    assert (found.paired, found.unpaired) == (0, 1)


def test_numbers_without_units_are_counted_apart():
    old = with_samples([(record(readings=[reading(2.0, metric="passes", unit="passes", resample="none")]), {})])
    found = leaderboard.compare(old, old)
    assert (found.paired, found.unpaired, found.single) == (0, 0, 1)


def test_boards_of_one_name_are_compared_and_the_others_named(tmp_path):
    for folder, names in (("old", ("a", "b")), ("new", ("b", "c"))):
        for name in names:
            write(boards_of(measured("one", VALUES)), tmp_path / folder / name)
    pairs, alone = boards_in_both(tmp_path / "old", tmp_path / "new")
    assert [(old.board, new.board) for old, new in pairs] == [("b", "b")]
    assert alone == [f"a is in {tmp_path / 'old'} only", f"c is in {tmp_path / 'new'} only"]
    pairs, alone = boards_in_both(tmp_path / "old" / "a", tmp_path / "new" / "c")
    assert [(old.board, new.board) for old, new in pairs] == [("a", "c")] and alone == []
    pairs, alone = boards_in_both(tmp_path / "old", tmp_path / "new" / "b")
    assert [(old.board, new.board) for old, new in pairs] == [("b", "b")] and alone == []
    with pytest.raises(BoardError, match="no board is in both"):
        boards_in_both(tmp_path / "old", tmp_path / "new" / "c")
    with pytest.raises(BoardError, match="it is not a folder"):
        boards_in_both(tmp_path / "old", tmp_path / "nowhere")


def test_versions_and_libraries_that_changed_are_said_once(tmp_path):
    def boards(torch, **card):
        made = [
            one
            for method in ("one", "two", "three")
            for one in measured(method, VALUES, conditions={"torch": torch}, card=card)
        ]
        return with_samples(made)

    console = Console(record=True, width=200)
    print_comparison(leaderboard.compare(boards("2.14"), boards("2.15")), console)
    print_comparison(leaderboard.compare(boards("2.15"), boards("2.15", metric_version=2)), console)
    lines = console.export_text().splitlines()
    assert lines[0] == "refused    conditions changed: torch 2.14 → 2.15: 3 numbers not compared (ssim)"
    assert lines[1] == "smoke: 3 conditions; paired: 0, unpaired: 0, without units: 0"
    assert lines[2] == "refused    conditions changed: metric_version 1 → 2: 3 numbers not compared (ssim)"


# ---- changes.csv ---------------------------------------------------------------------------------------------------


def test_changes_name_what_was_added_removed_and_rescored(tmp_path):
    old = boards_of([(record(name, readings=[reading(0.5)]), {}) for name in ("kept", "gone", "moved")]).long
    new = boards_of(
        [(record(name, readings=[reading(value)]), {}) for name, value in (("kept", 0.5), ("new", 0.1), ("moved", 0.6))]
    ).long
    changes = changes_between(old, new, date="2026-09-02", reason="a fix, of the metric")
    rows = {row["cell_id"]: row for row in changes.to_dict("records")}
    keys = {name: record(name).key for name in ("gone", "moved", "new")}
    assert set(rows) == set(keys.values())
    assert [rows[keys[name]]["action"] for name in ("gone", "moved", "new")] == ["remove", "rescore", "add"]
    assert (rows[keys["moved"]]["old_value"], rows[keys["moved"]]["new_value"]) == (0.5, 0.6)
    assert np.isnan(rows[keys["gone"]]["new_value"])
    assert rows[keys["new"]]["reason"] == "ssim: a fix, of the metric"


def test_what_a_clock_gave_is_no_change_of_a_published_row():
    def frame(milliseconds):
        one = reading(milliseconds, metric="latency", unit="ms", resample="none")
        return boards_of([(record(readings=[one]), {})], primary={"reconstruction": "latency"}).long

    assert len(changes_between(frame(1.0), frame(2.0), date="2026-09-02", reason="r")) == 0


def test_the_log_of_changes_grows_and_keeps_its_rows(tmp_path):
    old = boards_of([(record(readings=[reading(0.5)]), {})]).long
    new = boards_of([(record(readings=[reading(0.6)]), {})]).long
    path = tmp_path / "changes.csv"
    first = changes_between(old, new, date="2026-09-02", reason="one")
    second = changes_between(new, old, date="2026-09-03", reason="two")
    log_changes(path, first)
    log_changes(path, second)
    pd.testing.assert_frame_equal(load_changes(path), pd.concat([first, second], ignore_index=True))
    assert path.read_text().splitlines()[0] == "date,action,cell_id,old_value,new_value,reason"


def test_a_broken_log_of_changes_is_not_written_over(tmp_path):
    path = tmp_path / "changes.csv"
    path.write_text("something else\n")
    changes = boards_of([(record(readings=[reading()]), {})]).long
    with pytest.raises(BoardError, match="other columns"):
        log_changes(path, changes_between(changes, changes.iloc[:0], date="2026-09-02", reason="r"))
    assert path.read_text() == "something else\n"
