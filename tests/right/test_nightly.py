"""Which differences from a release raise an alarm, and which are noise, news or another machine's."""

import json

import numpy as np
import pytest
from rich.console import Console

from bench.leaderboard import build, compare, freeze, worse, write
from bench.leaderboard.nightly import cells_of, judge, known_failures, suspects, write_report
from bench.report import print_judgement
from tests.right.making import boards_of, measured, noise, reading, record, stored, with_samples

SEEDS = range(20)
METHODS = [f"method_{number}" for number in range(6)]
IMAGES = 0.5 + 0.1 * noise(0, 2, 60)
RIGHT = np.random.default_rng(1).random((2, 60)) < 0.8  # whether an image was classified


def run(jitter=0.0, slowness=1.0, flipped=(), worse_by=0.0, **changes):
    """A board of many lines and all kinds of numbers, measured once: per image, right or wrong, a set, a clock.

    Args:
        jitter: standard deviation of what float arithmetic in another order changes, relative.
        slowness: of the clock.
        flipped: images whose class tips over.
        worse_by: what the first method loses on every image.
    """
    made = []
    for number, method in enumerate(METHODS):
        for seed in range(2):
            noisy = 1 + jitter * noise(100 * number + seed + round(1e7 * jitter), 60)
            images = IMAGES[seed] * noisy - (worse_by if number == 0 else 0.0)
            right = RIGHT[seed].astype(np.float64)
            right[list(flipped)] = 0.0
            distances = 12 + noise(seed, 200) * (1 + jitter * noise(seed, 200))
            readings = [
                reading(images.mean(), metric="ssim", unit="ssim", values="ssim"),
                reading(right.mean(), metric="accuracy", values="accuracy"),
                reading(
                    distances.mean(),
                    metric="frechet",
                    unit="squared feature distance",
                    better="lower",
                    per="set",
                    replicates="frechet",
                ),
                reading(80 * slowness, metric="latency", unit="ms", better="lower", per="set", resample="none"),
            ]
            values = {"ssim": images, "accuracy": right, "frechet": distances}
            made.append((record(method, seed, readings=readings, **changes), values))
    return with_samples(made, primary={"reconstruction": "ssim"})


OLD = run()


# ---- two runs of the same code -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "again",
    [
        run(),
        run(jitter=1e-6),
        run(slowness=1.3),
        run(slowness=0.7),
        run(jitter=1e-6, slowness=1.3),
        run(jitter=1e-6, flipped=[int(np.flatnonzero(RIGHT[0] & RIGHT[1])[0])]),
    ],
    ids=["equal", "float noise", "slower", "faster", "all of it", "one image tips over"],
)
def test_two_runs_of_the_same_code_raise_no_alarm_whatever_the_seed_of_the_bootstrap(again):
    for seed in SEEDS:
        for one in (compare(OLD, again, seed=seed), compare(again, OLD, seed=seed)):
            assert one.paired == 3 * len(METHODS), "compared, and not left out"
            assert worse(one.differences) == []
            assert judge(one).alarms == []


def test_a_method_made_worse_by_a_known_amount_raises_one_alarm_whatever_the_seed():
    again = run(jitter=1e-6, slowness=1.3, worse_by=0.01)
    for seed in SEEDS:
        first = compare(OLD, again, seed=seed)
        (alarm,) = judge(first, first).alarms
        assert (alarm.line[5], alarm.metric, alarm.paired) == ("method_0", "ssim", True)
        assert (alarm.low, alarm.high) == pytest.approx((-0.01, -0.01), abs=1e-5)


def test_a_loss_within_the_tolerance_raises_none():
    assert judge(compare(OLD, run(worse_by=0.0009))).alarms == []


def test_what_got_better_is_shown_and_raises_none():
    judgement = judge(compare(OLD, run(worse_by=-0.01)))
    assert judgement.alarms == []
    assert [one.kind for one in judgement.comparison.differences] == ["better"]


# ---- the rerun -----------------------------------------------------------------------------------------------------


def test_the_cells_to_run_again_are_those_of_the_numbers_that_got_worse():
    again = run(worse_by=0.01)
    found = suspects(compare(OLD, again))
    assert cells_of(again, found) == sorted(record("method_0", seed).key for seed in range(2))
    assert cells_of(again, []) == []


def test_a_rerun_that_disagrees_is_no_alarm_and_is_told():
    judgement = judge(compare(OLD, run(worse_by=0.01)), compare(OLD, run()))
    assert judgement.alarms == []
    assert [(one.metric, one.kind) for one in judgement.not_confirmed] == [("ssim", "worse")]


@pytest.mark.parametrize("loss", [0.0009, -0.01], ids=["within the tolerance", "of the other sign"])
def test_a_rerun_agrees_only_with_the_same_sign_beyond_the_tolerance(loss):
    assert judge(compare(OLD, run(worse_by=0.01)), compare(OLD, run(worse_by=loss))).alarms == []


def test_a_rerun_that_agrees_in_another_metric_alone_does_not_agree():
    def board(first, second):
        units = {"a": IMAGES[0] - first, "b": IMAGES[0] - second}
        readings = [reading(values.mean(), metric=name, values=name) for name, values in units.items()]
        return with_samples([(record(readings=readings), units)])

    old = board(0, 0)
    assert judge(compare(old, board(0.01, 0)), compare(old, board(0, 0.01))).alarms == []
    assert len(judge(compare(old, board(0.01, 0.01)), compare(old, board(0.01, 0.01))).alarms) == 1


# ---- what no rerun can mend ----------------------------------------------------------------------------------------


def test_a_line_that_is_gone_is_an_alarm():
    old = with_samples([*measured("one", IMAGES), *measured("two", IMAGES)])
    (alarm,) = judge(compare(old, with_samples(measured("one", IMAGES)))).alarms
    assert (alarm.line[5], alarm.reason) == ("two", "missing")


def test_a_cell_without_a_record_is_an_alarm():
    new = with_samples(measured("one", IMAGES[:1]), planned=[record("one", seed=1)])
    (alarm,) = judge(compare(with_samples(measured("one", IMAGES)), new)).alarms
    assert alarm.reason == "seed 1: ok → missing"


def test_a_cell_that_newly_fails_is_an_alarm():
    old = with_samples(measured("one", IMAGES))
    new = with_samples([*measured("one", IMAGES[:1]), (record("one", seed=1, status="timeout", error="slow"), {})])
    (alarm,) = judge(compare(old, new)).alarms
    assert alarm.reason == "seed 1: ok → timeout: slow"


def test_a_cell_that_fails_in_the_rerun_is_an_alarm():
    failed = with_samples([(record("one", seed, status="oom", error="no memory"), {}) for seed in range(2)])
    old, first = with_samples(measured("one", IMAGES)), with_samples(measured("one", IMAGES - 0.1))
    judgement = judge(compare(old, first), compare(old, failed))
    assert [one.reason for one in judgement.alarms] == ["seed 0: ok → oom: no memory (and 1 more)"]


def test_one_alarm_a_line_though_it_failed_and_got_worse():
    old = with_samples(measured("one", IMAGES))
    new = with_samples([*measured("one", IMAGES[:1] - 0.1), (record("one", seed=1, status="oom"), {})])
    found = compare(old, new)
    assert [one.kind for one in found.differences] == ["worse", "worse"]
    assert len(judge(found, found).alarms) == 1


def test_an_unpaired_difference_is_never_an_alarm():
    found = compare(boards_of(measured("one", IMAGES)), boards_of(measured("one", IMAGES - 0.3)))
    assert [(one.kind, one.paired) for one in found.differences] == [("worse", False)]
    assert suspects(found) == [] and judge(found).alarms == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conditions": {"torch": "2.16.0"}}, "conditions changed: torch 2.15.0 → 2.16.0"),
        ({"card": {"metric_version": 2}}, "conditions changed: metric_version 1 → 2"),
        ({"method_version": 2}, "conditions changed: method_version 1 → 2"),
    ],
)
def test_another_library_or_version_is_told_and_not_judged(changes, reason):
    same = {"conditions": {"torch": "2.15.0"}, "method_version": 1}
    old = with_samples(measured("one", IMAGES, **same))
    judgement = judge(compare(old, with_samples(measured("one", IMAGES - 0.3, **(same | changes)))))
    assert judgement.alarms == []
    console = Console(record=True, width=200)
    print_judgement(judgement, console)
    assert f"{reason}: 1 numbers not compared (ssim)" in console.export_text()


# ---- failures that the release knows, and the report ---------------------------------------------------------------


def failing(*methods):
    return [(record(method, status="failed", error="e"), {}) for method in methods]


def test_failures_on_the_release_are_known_and_new_cells_are_not():
    old = boards_of([*measured("one", IMAGES), *failing("two")])
    assert known_failures(old, boards_of([*measured("one", IMAGES), *failing("two")]))
    assert known_failures(old, boards_of(failing("one", "two"))), "alarms judge what was ok"
    assert not known_failures(old, boards_of([*measured("one", IMAGES), *failing("two", "three")]))
    assert not known_failures(old, boards_of(measured("one", IMAGES))), "what failed is on no board"
    skipped = boards_of([*failing("two"), (record("three", status="skipped", error="s"), {})])
    assert known_failures(old, skipped), "what was skipped did not fail"


def test_the_report_says_what_was_compared_with_what(tmp_path):
    store = stored(tmp_path / "store", measured("one", IMAGES))
    write(build(store, "smoke"), tmp_path / "boards" / "smoke")
    last = freeze(store, tmp_path / "boards", ["smoke"], version="0.1.0", date="2026-09-01")
    first = compare(OLD, run(worse_by=0.01, slowness=1.3))
    judgement = judge(first, first)
    path = write_report(tmp_path / "night", [judgement], last, date="2026-09-02", profile="cpu", exit_status=3)
    said = json.loads(path.read_bytes())
    assert (said["date"], said["release"], said["alarms"], said["exit_status"]) == ("2026-09-02", "0.1.0", 1, 3)
    board = said["boards"]["smoke"]
    assert board["numbers"] == {"paired": 18, "unpaired": 0, "without units": 6}
    (alarm,) = board["alarms"]
    assert (alarm["method"], alarm["metric"], alarm["paired"]) == ("method_0", "ssim", True)
    assert alarm["new"] - alarm["old"] == pytest.approx(-0.01)
    assert len(board["unclear"]) == len(METHODS), "each is a third slower"
    assert said["boards of the release that were not run"] == []
