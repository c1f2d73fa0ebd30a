"""What boards answer to the claims of their suite: numbers by plain loops, verdicts, gaps in the records, files."""

import csv
import json
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.leaderboard import BoardError, build, load_boards, load_claims, write
from bench.leaderboard.claims import verdict
from bench.leaderboard.schema import CLAIM_KINDS
from bench.leaderboard.statistics import DRAW_SEED
from bench.record import Claim, RowName, Store, SuiteIndex
from bench.report import print_boards, write_page
from tests.right.making import boards_of, index_of, measured, noise, reading, record

VALUES = 0.5 + 0.1 * noise(0, 3, 40)  # of three seeds, 40 images each
OTHER = 0.5 + 0.1 * noise(1, 3, 40)


def row(method, **named):
    return RowName(
        **({"subject": "cnn.digits.sgd", "condition": "layer3", "method": method, "variant": "default"} | named)
    )


def claim(*pairs, **changes):
    pairs = pairs or ((row("one"), row("two")),)
    fields = {"claim": "One beats two.", "track": "reconstruction", "metrics": ("ssim",), "pairs": pairs}
    return Claim(**(fields | changes))


def answers(made, *claims, **changes):
    """Rows of claims.csv."""
    return boards_of(made, claims=claims or (claim(),), **changes).claims.to_dict("records")


def answer(made, *claims, **changes):
    (only,) = answers(made, *claims, **changes)
    return only


def two_methods(one=VALUES, two=OTHER, **changes):
    return [*measured("one", one, **changes), *measured("two", two, **changes)]


def bootstrap_by_loops(differences, resamples=1000):
    """Ends of the 95 % interval: each replicate draws seeds, and for all of them the same units."""
    seeds, units = len(differences), len(differences[0])
    of_units = np.random.default_rng([DRAW_SEED, units])
    of_seeds = np.random.default_rng([DRAW_SEED, seeds, 1])
    replicates = []
    for _ in range(resamples):
        drawn = of_units.integers(0, units, units)
        chosen = of_seeds.integers(0, seeds, seeds) if seeds > 1 else [0]
        replicates.append(sum(np.nanmean(differences[s][drawn]) for s in chosen) / seeds)
    return np.percentile(replicates, [2.5, 97.5])


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_values_difference_and_interval_are_those_of_plain_loops():
    found = answer(two_methods())
    assert (found["of_value"], found["against_value"]) == pytest.approx((VALUES.mean(), OTHER.mean()), rel=1e-12)
    assert found["difference"] == pytest.approx((VALUES - OTHER).mean(), rel=1e-9)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(bootstrap_by_loops(VALUES - OTHER), abs=1e-10)
    assert (found["ci_level"], found["ci_method"]) == (0.95, "paired_bootstrap_image_seed_1000")
    assert (found["n_seeds"], found["unit"], found["better"]) == (3, "fraction", "higher")


def test_one_seed_has_the_spread_of_its_images_alone():
    found = answer(two_methods(VALUES[:1], OTHER[:1]))
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(bootstrap_by_loops(VALUES[:1] - OTHER[:1]), abs=1e-10)
    assert (found["n_seeds"], found["ci_method"]) == (1, "paired_bootstrap_image_1000")


def test_a_shift_far_below_the_images_spread_is_seen_in_pairs():
    found = answer(two_methods(VALUES + 0.001, VALUES))
    assert found["verdict"] == "holds"
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((0.001, 0.001), abs=1e-9)


def test_with_a_control_the_gaps_to_it_are_compared():
    """The control of each subject is its own: what both subjects' maps gain over noise is what differs."""
    mlp = {"subject": "mlp"}
    noise_cnn, noise_mlp = 0.3 + 0.1 * noise(2, 3, 40), 0.1 + 0.1 * noise(3, 3, 40)
    made = [
        *measured("one", VALUES),
        *measured("noise", noise_cnn),
        *measured("one", OTHER, **mlp),
        *measured("noise", noise_mlp, **mlp),
    ]
    found = answer(made, claim((row("one"), row("one", **mlp)), control="noise"))
    gaps = VALUES - noise_cnn, OTHER - noise_mlp
    assert found["control"] == "noise"
    assert (found["of_value"], found["against_value"]) == pytest.approx([gap.mean() for gap in gaps], rel=1e-9)
    assert found["difference"] == pytest.approx((gaps[0] - gaps[1]).mean(), rel=1e-9)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(bootstrap_by_loops(gaps[0] - gaps[1]), abs=1e-10)
    assert found["verdict"] == "fails"  # the subject with the better maps loses: its noise is better still


def test_units_without_a_value_in_one_row_are_left_out_of_both():
    of, against = VALUES[:1].copy(), OTHER[:1].copy()
    of[0, :7], against[0, 3:12] = np.nan, np.nan
    found = answer(two_methods(of, against))
    assert found["of_value"] == pytest.approx(VALUES[0, 12:].mean(), rel=1e-9)
    assert found["against_value"] == pytest.approx(OTHER[0, 12:].mean(), rel=1e-9)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(bootstrap_by_loops(of - against), abs=1e-10)


def test_swapped_sides_turn_the_answer_round():
    there, back = answers(two_methods(VALUES + 0.1), claim((row("one"), row("two")), (row("two"), row("one"))))
    assert there["difference"] == -back["difference"]
    assert (there["ci_low"], there["ci_high"]) == pytest.approx((-back["ci_high"], -back["ci_low"]), abs=1e-11)
    assert (there["verdict"], back["verdict"]) == ("holds", "fails")


def of_sets(replicates, values, **card):
    """One record a method, whose metric is of a set: replicates instead of units."""
    made = []
    for method, numbers, value in zip(("one", "two"), replicates, values, strict=True):
        one = reading(value, per="set", replicates="ssim", **card)
        made.append((record(method, readings=[one]), {"ssim": numbers}))
    return made


def test_replicates_are_compared_one_by_one():
    shared = noise(0, 200)
    replicates = 3 + shared, 1 + shared + 0.1 * noise(1, 200)
    found = answer(of_sets(replicates, (3.0, 1.0)))
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(
        np.percentile(replicates[0] - replicates[1], [2.5, 97.5])
    )
    assert (found["difference"], found["ci_method"]) == (2.0, "paired_bootstrap_image_200")


def test_replicates_that_leave_out_the_difference_are_moved_onto_it():
    replicates = 9 + 0.1 * noise(0, 200), 3 + 0.1 * noise(1, 200)
    found = answer(of_sets(replicates, (5.0, 1.0)))
    drawn = replicates[0] - replicates[1]
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(np.percentile(drawn - drawn.mean() + 4, [2.5, 97.5]))
    assert found["ci_method"] == "paired_bootstrap_image_200_centred"


# ---- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "margin", "higher", "lower"),
    [
        (0.1, 0.2, 0.0, "holds", "fails"),
        (-0.2, -0.1, 0.0, "fails", "holds"),
        (-0.1, 0.1, 0.0, "unclear", "unclear"),
        (0.0, 0.1, 0.0, "unclear", "unclear"),  # touching is not above
        (0.0, 0.0, 0.0, "unclear", "unclear"),
        (-0.001, 0.3, -0.002, "holds", "unclear"),
        (-0.3, 0.001, -0.002, "unclear", "holds"),
        (0.01, 0.03, 0.02, "unclear", "fails"),
        (-0.03, -0.025, -0.02, "fails", "holds"),
    ],
)
def test_a_claim_holds_above_its_margin_and_fails_below(low, high, margin, higher, lower):
    assert verdict(low, high, "higher", margin) == higher
    assert verdict(low, high, "lower", margin) == lower


@pytest.mark.parametrize(
    ("shift", "margin", "expected"),
    [(-0.001, 0.0, "fails"), (-0.001, -0.002, "holds"), (-0.003, -0.002, "fails"), (0.01, 0.02, "fails")],
)
def test_the_margin_lies_in_the_good_direction(shift, margin, expected):
    higher = answer(two_methods(VALUES + shift, VALUES), claim(margin=margin))
    lower = answer(two_methods(VALUES - shift, VALUES, card={"better": "lower"}), claim(margin=margin))
    assert (higher["verdict"], lower["verdict"]) == (expected, expected)
    assert (higher["margin"], lower["margin"]) == (margin, margin)
    assert lower["difference"] == pytest.approx(-shift, abs=1e-12)  # of - against, whatever is better


def test_a_metric_without_direction_says_nothing():
    found = answer(two_methods(VALUES + 0.1, VALUES, card={"better": "neither"}))
    assert (found["verdict"], found["reason"]) == ("unclear", "the metric has no better direction")


# ---- gaps in the records -------------------------------------------------------------------------------------------


def test_only_seeds_that_both_rows_have_are_compared():
    made = measured("one", VALUES)
    made += [one for one in measured("two", OTHER) if one[0].identity.seed != 1]
    made += [(record("two", 1, status="oom", error="no memory"), {})]
    found = answer(made)
    kept = [0, 2]
    assert found["n_seeds"] == 2
    assert found["reason"] == "2 of 3 seeds have a value in every row"
    assert (found["of_value"], found["against_value"]) == pytest.approx((VALUES[kept].mean(), OTHER[kept].mean()))
    ends = bootstrap_by_loops(VALUES[kept] - OTHER[kept])
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(ends, abs=1e-10)


def test_a_seed_that_is_planned_and_was_not_run_is_counted():
    found = answer(two_methods(), planned=[record("one", seed=3), record("two", seed=3)])
    assert (found["n_seeds"], found["reason"]) == (3, "3 of 4 seeds have a value in every row")


def undefined(method):
    return record(method, readings=[reading(None, status="undefined", error="one image of the class")])


@pytest.mark.parametrize(
    ("made", "planned", "reason"),
    [
        ([], [record("two")], "no record"),
        ([], [], "no record"),
        ([record("two", status="failed", error="no memory\nmore")], [], "failed: no memory"),
        ([record("two", status="skipped", error="needs BatchNorm")], [], "skipped: needs BatchNorm"),
        ([record("two", status="interrupted")], [], "interrupted"),
        ([record("two", readings=[reading(metric="psnr")])], [], "ssim was not measured"),
        ([undefined("two")], [], "undefined: one image of the class"),
        ([record("two", readings=[reading()], provenance={"selftest": "fail"})], [], "selftest failed"),
        ([record("two", readings=[reading()], provenance={"source": "paper"})], [], "not measured here"),
    ],
)
def test_a_row_without_value_is_a_line_with_its_reason(made, planned, reason):
    found = answer([*measured("one", VALUES), *((one, {}) for one in made)], planned=planned)
    assert found["verdict"] == "no value"
    assert found["reason"] == f"cnn.digits.sgd · layer3 · two: {reason}"
    assert all(pd.isna(found[name]) for name in ("of_value", "against_value", "difference", "ci_low", "n_seeds"))
    assert (found["metric"], found["of_method"], found["against_method"]) == ("ssim", "one", "two")


def test_a_control_without_value_is_named():
    found = answer(two_methods(), claim(control="noise"), planned=[record("noise")])
    assert (found["verdict"], found["reason"]) == ("no value", "cnn.digits.sgd · layer3 · noise: no record")


def test_rows_without_a_common_seed_are_not_compared():
    made = [(record("one", 0, readings=[reading()]), {}), (record("two", 1, readings=[reading()]), {})]
    assert answer(made)["reason"] == "no seed has a value in every row"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"metric": "ssim_of_mlp"}, "judged by different referees: ssim, ssim_of_mlp"),
        ({"metric_version": 2}, "cnn.digits.sgd · layer3 · one: ssim was measured in an older version"),
    ],
)
def test_values_of_unlike_metrics_are_not_compared(other, reason):
    readings = reading(), reading(**({"stem": "ssim"} | other))
    made = [(record(method, readings=[one]), {}) for method, one in zip(("one", "two"), readings, strict=True)]
    found = answer(made)
    assert (found["verdict"], found["reason"]) == ("no value", reason)


def test_a_metric_is_named_as_on_the_board():
    made = two_methods(card={"stem": "frechet", "metric": "frechet_mlp"})
    assert answer(made, claim(metrics=("frechet",)))["metric"] == "frechet_mlp"


NUMBER = reading(0.5, resample="none")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ([(record("one", readings=[NUMBER]), {}), (record("two", readings=[NUMBER]), {})], "nothing to draw anew"),
        ([*measured("one", VALUES), *measured("two", OTHER[:, :30])], "30 and 40 units cannot be paired"),
        (
            [*measured("one", VALUES[:, :1]), *measured("two", OTHER[:, :1])],
            "one of the units alone says nothing about spread",
        ),
    ],
)
def test_without_pairs_to_draw_there_are_values_and_no_interval(made, reason):
    found = answer(made)
    assert (found["verdict"], found["reason"]) == ("unclear", f"no interval: {reason}")
    assert not pd.isna(found["difference"]) and pd.isna(found["ci_low"]) and found["ci_method"] == ""


def test_units_that_no_row_shares_give_no_interval():
    of, against = VALUES[:1].copy(), OTHER[:1].copy()
    of[0, :20], against[0, 20:] = np.nan, np.nan
    found = answer(two_methods(of, against))
    assert (found["verdict"], found["reason"]) == ("unclear", "no interval: no unit has a value in every row")


def test_boards_without_intervals_give_the_values_alone():
    found = answer(two_methods(VALUES + 0.1, VALUES), intervals=False)
    assert found["difference"] == pytest.approx(0.1) and found["verdict"] == "unclear"


# ---- files ---------------------------------------------------------------------------------------------------------

CLAIMS = (
    claim((row("one"), row("two")), (row("two"), row("one")), source="Somebody 2023", margin=-0.01),
    claim((row("one"), row("late")), claim="Late is <b>worse</b>, [red]says[/] nobody.", metrics=("ssim", "psnr")),
)


def some_boards(order=1):
    made = [*two_methods(VALUES + 0.1), (record("broken", status="failed", error="e"), {})]
    return boards_of(made[::order], planned=[record("late")], claims=CLAIMS)


def test_lines_stand_in_the_order_of_claims_metrics_and_pairs():
    found = some_boards().claims
    assert found["of_method"].tolist() == ["one", "two", "one", "one"]
    assert found["metric"].tolist() == ["ssim", "ssim", "ssim", "psnr"]
    assert found["verdict"].tolist() == ["holds", "fails", "no value", "no value"]
    assert found["claim"].tolist() == [CLAIMS[0].claim] * 2 + [CLAIMS[1].claim] * 2
    assert set(found["suite_version"]) == {"1.0.0"} and set(found["dataset"]) == {"digits"}


def test_records_in_any_order_give_the_same_file(tmp_path):
    for order in (1, -1):
        write(some_boards(order), tmp_path / str(order))
    assert (tmp_path / "1" / "claims.csv").read_bytes() == (tmp_path / "-1" / "claims.csv").read_bytes()


def test_claims_come_back_from_their_file(tmp_path):
    boards = some_boards()
    write(boards, tmp_path)
    pd.testing.assert_frame_equal(load_boards(tmp_path).claims, boards.claims)
    pd.testing.assert_frame_equal(load_claims(tmp_path / "claims.csv"), boards.claims)
    rows = list(csv.DictReader((tmp_path / "claims.csv").open(newline="", encoding="utf-8")))
    assert [one["n_seeds"] for one in rows] == ["3", "3", "", ""]


def test_the_schema_explains_every_column(tmp_path):
    write(some_boards(), tmp_path)
    explained = json.loads((tmp_path / "schema.json").read_text())["claims"]
    head = next(csv.reader(StringIO((tmp_path / "claims.csv").read_text())))
    assert list(explained) == head == list(CLAIM_KINDS)
    assert all(column["meaning"] and column["type"] for column in explained.values())


def test_a_file_with_other_columns_is_refused(tmp_path):
    write(some_boards(), tmp_path)
    path = tmp_path / "claims.csv"
    path.write_text(path.read_text().replace("verdict", "opinion", 1))
    with pytest.raises(BoardError, match="other columns than it should: opinion, verdict"):
        load_boards(tmp_path)


def test_a_store_gives_the_same_answers_again(tmp_path):
    made = two_methods()
    store = Store.create(tmp_path / "store")
    for one, values in made:
        store.commit(one, values, store.stage(one.key))
    store.write_index(index_of([one for one, _ in made], claims=CLAIMS, track_notes={"reconstruction": ("a note",)}))
    for place in "ab":
        write(build(Store.open(tmp_path / "store"), "smoke"), tmp_path / place)
    assert (tmp_path / "a" / "claims.csv").read_bytes() == (tmp_path / "b" / "claims.csv").read_bytes()
    expected = boards_of(made, claims=CLAIMS).claims
    pd.testing.assert_frame_equal(load_claims(tmp_path / "a"), expected)


def test_an_index_from_before_there_were_claims_is_read():
    text = index_of([record()]).model_dump(mode="json", by_alias=True)
    for name in ("claims", "track_notes"):
        del text[name]
    assert SuiteIndex.model_validate_json(json.dumps(text)).claims == ()


def shown(boards, width=110):
    console = Console(file=StringIO(), width=width, no_color=True)
    print_boards(boards, console)
    return console.file.getvalue()


def test_boards_without_claims_and_notes_do_not_mention_them(tmp_path):
    boards = boards_of(two_methods())
    assert boards.claims is None
    paths = [*write(boards, tmp_path), write_page(boards, tmp_path / "page")]
    assert not any("claim" in path.name or "claim" in path.read_text() for path in paths)
    assert not (tmp_path / "page" / "claims.html").exists()
    assert "notes" not in boards.sidecars["reconstruction"]
    assert "claim" not in shown(boards)


def test_answers_to_claims_that_are_no_longer_made_do_not_stay(tmp_path):
    write(some_boards(), tmp_path)
    write(boards_of(two_methods()), tmp_path)
    assert not (tmp_path / "claims.csv").exists()
    assert load_boards(tmp_path).claims is None


# ---- for people ----------------------------------------------------------------------------------------------------


def test_the_terminal_shows_each_answer_and_how_many_there_are():
    text = shown(some_boards(), width=200)
    lines = text[text.index("\nclaims") :].strip().splitlines()
    assert lines[0] == (
        "claims — holds 1, fails 1, unclear 0, no value 2; comparisons: 4, each at 95 %, not corrected for their number"
    )
    assert "One beats two. (Somebody 2023)" in lines
    assert "reconstruction; holds where the interval of the gain lies above -0.01: holds 1, fails 1, unclear 0" in lines
    made = some_boards().claims.iloc[0]
    said = next(line for line in lines if line.startswith("holds"))
    assert "cnn.digits.sgd · layer3: one against two, ssim: " in said
    assert f"{made['of_value']:.4f} against {made['against_value']:.4f}, +{made['difference']:.4f} [" in said
    assert said.strip().endswith("3 seeds")
    assert "Late is <b>worse</b>, [red]says[/] nobody." in text
    assert (
        "no value  cnn.digits.sgd · layer3: one against late, ssim; cnn.digits.sgd · layer3 · late: no record" in text
    )


@pytest.mark.parametrize("width", [60, 100])
def test_no_line_of_the_claims_is_wider_than_the_console(width):
    assert max(map(len, shown(some_boards(), width).splitlines())) <= width


def test_what_differs_stands_on_the_sides_and_what_does_not_before_them():
    other = row("one", subject="mlp", variant="pinv")
    made = [*measured("one", VALUES), *measured("one", OTHER, subject="mlp", variant="pinv")]
    text = shown(boards_of(made, claims=(claim((row("one"), other)),)), width=160)
    assert "layer3 · one: cnn.digits.sgd against mlp · pinv, ssim: " in text


def test_lower_is_better_is_said():
    text = shown(boards_of(two_methods(card={"better": "lower"}), claims=(claim(),)), width=160)
    assert "one against two, ssim, lower is better: " in text


def test_the_page_of_claims_shows_each_with_its_counts_and_escapes_them(tmp_path):
    write_page(some_boards(), tmp_path)
    text = (tmp_path / "claims.html").read_text()
    assert 'href="claims.html"' in (tmp_path / "index.html").read_text()
    assert "One beats two." in text and "Somebody 2023" in text
    for count in ("holds 1", "fails 1", "no value 2"):
        assert count in text
    assert "Late is &lt;b&gt;worse&lt;/b&gt;, [red]says[/] nobody." in text and "<b>worse" not in text


def test_notes_stand_on_the_board_of_their_track(tmp_path):
    line = "With amplitude 1 it is <i>the same</i> as [red]another[/]."
    boards = boards_of(two_methods(), track_notes={"reconstruction": (line,), "inversion": ("Of another board.",)})
    assert boards.sidecars["reconstruction"]["notes"] == [line]
    assert line in shown(boards)
    page = write_page(boards, tmp_path).read_text()
    assert line.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "Of another board." not in shown(boards) + page
