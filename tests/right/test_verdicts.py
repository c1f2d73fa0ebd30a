"""Verdicts by several metrics: numbers by hand and by plain loops, gaps in the records, files, and what people see."""

import csv
import json
import re
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.leaderboard import load_boards, write
from bench.leaderboard.verdicts import across_data_sets, on_data_set
from bench.record import Claim, RowName, VerdictRule
from bench.report import print_boards, write_page
from tests.right.making import boards_of, noise, reading, record

BASE = 0.5 + 0.05 * noise(0, 3, 40)  # of three seeds, 40 images each
PLACE = {"subject": "cnn", "condition": ""}
RULE = {
    "gains": {"pixels": [{"metric": "rmse"}, {"metric": "ssim"}], "referee": [{"metric": "vendi"}]},
    "guard": {"metric": "accuracy", "margin": -0.02},
    "across": 3,
}


def claim(*datasets, rule=RULE, **changes):
    of, against = (
        [RowName(dataset=dataset, method="one", variant=variant, **PLACE) for dataset in datasets or ("digits",)]
        for variant in ("with", "without")
    )
    stems = [gain["metric"] for gains in rule["gains"].values() for gain in gains] + [rule["guard"]["metric"]]
    fields = {"claim": "It buys diversity.", "source": "Somebody 2024", "track": "reconstruction", "metrics": stems}
    rows = {"pairs": tuple(zip(of, against, strict=True)), "verdict": VerdictRule.model_validate(rule)}
    return Claim(**(fields | rows | changes))


def row(variant, numbers, dataset="digits", cards=None):
    """Records of one row: ``numbers`` maps a metric to (seeds, units) values; a number moves BASE by itself."""
    numbers = {stem: BASE + value if np.isscalar(value) else value for stem, value in numbers.items()}
    made = []
    for seed in range(max(map(len, numbers.values()))):
        of_seed = {stem: np.asarray(values[seed]) for stem, values in numbers.items() if seed < len(values)}
        readings = [
            reading(float(values.mean()), metric=stem, values=stem, **(cards or {}).get(stem, {}))
            for stem, values in of_seed.items()
        ]
        where = PLACE | {"variant": variant, "dataset": dataset}
        made.append((record("one", seed, readings=readings, key=f"{dataset}_{variant}_{seed}", **where), of_seed))
    return made


FLAT = {"rmse": 0.0, "ssim": 0.0, "vendi": 0.0, "accuracy": 0.0}


def rows(dataset="digits", cards=None, **gains):
    """Both rows, the one with the device moved by ``gains``."""
    return [*row("with", FLAT | gains, dataset, cards), *row("without", FLAT, dataset, cards)]


GOOD = {"rmse": 0.1, "vendi": 0.1}


def table(made, *claims, **changes):
    return boards_of(made, claims=claims or (claim(),), **changes).claims


def parts(made, *claims, **changes):
    """(metric, verdict, reason) of every row."""
    return table(made, *claims, **changes)[["metric", "verdict", "reason"]].values.tolist()


def on_one(made, *claims, **changes):
    found = table(made, *claims, **changes)
    (only,) = found[found["part"] == "data set"].to_dict("records")
    return only


# ---- the rule ------------------------------------------------------------------------------------------------------

Y, N, U = True, False, None


@pytest.mark.parametrize(
    ("groups", "guard", "expected"),
    [
        ([Y, Y], Y, "supported"),
        ([Y, N], Y, "mixed"),
        ([N, N], Y, "not supported"),
        ([Y, Y], N, "not supported"),
        ([U, U], N, "not supported"),  # whatever is missing, the guard is broken
        ([N, N], U, "not supported"),
        ([Y, Y], U, "undecided"),
        ([Y, N], U, "undecided"),
        ([Y, U], Y, "undecided"),
        ([N, U], Y, "undecided"),
        ([Y, N, U], Y, "mixed"),
        ([Y], Y, "supported"),
    ],
)
def test_on_a_data_set_every_group_has_to_gain_and_the_guard_to_be_kept(groups, guard, expected):
    assert on_data_set(groups, guard) == expected


S, M, F, O = "supported", "mixed", "not supported", "undecided"  # noqa: E741


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([S, S, S], S),
        ([S, S, S, F], S),  # three of four
        ([S, S, S, O], S),
        ([S, S, F], M),
        ([S, S, M, M], M),
        ([S, S, S, F, F], M),
        ([F, F, F], F),
        ([F, F, F, S], F),
        ([F, F, S, S], M),
        ([S, S], O),
        ([S, S, O, O], O),
        ([F, F, O], O),
        ([], O),
    ],
)
def test_across_data_sets_three_at_least_and_all_but_one_have_to_agree(verdicts, expected):
    assert across_data_sets(verdicts, 3) == expected


def test_how_many_data_sets_it_takes_is_the_rules_own():
    assert across_data_sets([S, S], 2) == S
    assert across_data_sets([S, F], 2) == M
    assert across_data_sets([S, S, S], 4) == O


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_difference_interval_and_seed_spread_are_those_of_plain_loops():
    of = BASE + 0.1 + 0.01 * noise(1, 3, 1) + 0.02 * noise(2, 3, 40)
    found = table(rows(rmse=of, vendi=0.1)).iloc[0]
    sums = [[sum(values) / 40 for values in side] for side in (of, BASE)]
    means = [sum(side) / 3 for side in sums]
    spreads = [(sum((value - mean) ** 2 for value in side) / 2) ** 0.5 for side, mean in zip(sums, means, strict=True)]
    assert found["seed_spread"] == pytest.approx(max(spreads), rel=1e-9)
    assert found["difference"] == pytest.approx(means[0] - means[1], rel=1e-9)
    plain = Claim(**(claim().model_dump() | {"verdict": None, "metrics": ("rmse",)}))
    same = table(rows(rmse=of, vendi=0.1), plain).iloc[0]  # intervals of claims are tested in test_claims.py
    assert (found["ci_low"], found["ci_high"], found["ci_method"]) == tuple(same[["ci_low", "ci_high", "ci_method"]])
    assert (found["of_value"], found["n_seeds"], found["part"]) == (same["of_value"], 3, "gain in pixels")


def seeds_at(*means):
    """Values of three seeds with these means exactly, and hardly any spread within."""
    ripple = 0.001 * np.where(np.arange(40) % 2, 1.0, -1.0)
    return np.array(means)[:, None] + ripple


@pytest.mark.parametrize(
    ("of", "against", "spread", "verdict"),
    [
        ((0.60, 0.61, 0.62), (0.50, 0.51, 0.52), 0.01, "gains"),
        ((0.40, 0.60, 0.80), (0.30, 0.50, 0.70), 0.2, "no gain"),  # 0.1 at every seed, but seeds differ by more
        ((0.50, 0.51, 0.52), (0.30, 0.50, 0.70), 0.2, "no gain"),  # the spread is the larger of both rows'
        ((0.40, 0.41, 0.42), (0.50, 0.51, 0.52), 0.01, "no gain"),
    ],
)
def test_a_gain_is_larger_than_the_seed_spread(of, against, spread, verdict):
    made = [*row("with", FLAT | {"rmse": seeds_at(*of)}), *row("without", FLAT | {"rmse": seeds_at(*against)})]
    found = table(made).iloc[0]
    assert found["seed_spread"] == pytest.approx(spread, rel=1e-9)
    assert found["verdict"] == verdict


def test_a_gain_has_its_interval_above_zero():
    """Both seeds gain 0.1 on average, while images differ by ten times as much."""
    noisy = BASE[:2] + 2.0 * noise(5, 2, 40)
    noisy += (BASE[:2].mean(axis=1) + 0.1 - noisy.mean(axis=1))[:, None]
    found = table(rows(rmse=noisy)).iloc[0]
    assert found["difference"] > found["seed_spread"] and found["ci_low"] < 0
    assert found["verdict"] == "no gain"


def test_lower_is_a_gain_where_card_or_rule_say_so():
    down = {"rmse": -0.1, "vendi": 0.1}
    assert parts(rows(**down))[0][1] == "no gain"
    assert parts(rows(cards={"rmse": {"better": "lower"}}, **down))[0][1] == "gains"
    said = RULE | {"gains": {"pixels": [{"metric": "rmse", "better": "lower"}], "referee": [{"metric": "vendi"}]}}
    for better in ("higher", "neither"):
        found = table(rows(cards={"rmse": {"better": better}}, **down), claim(rule=said)).iloc[0]
        assert (found["verdict"], found["better"]) == ("gains", "lower")
        assert found["difference"] == pytest.approx(-0.1)  # of - against, whatever is better


@pytest.mark.parametrize(
    ("loss", "better", "verdict"),
    [
        (0.0, "higher", "kept"),
        (-0.019, "higher", "kept"),
        (-0.021, "higher", "broken"),
        (0.3, "higher", "kept"),
        (0.019, "lower", "kept"),
        (0.021, "lower", "broken"),
    ],
)
def test_the_guard_may_fall_by_the_margin(loss, better, verdict):
    made = rows(accuracy=loss, cards={"accuracy": {"better": better}}, **GOOD)
    found = table(made).iloc[3]
    assert (found["part"], found["margin"], found["verdict"]) == ("guard", -0.02, verdict)
    assert on_one(made)["verdict"] == ("supported" if verdict == "kept" else "not supported")


def test_a_loss_of_exactly_the_margin_is_kept_however_it_is_rounded():
    of, against = (np.tile(np.arange(100) < right, (3, 1)).astype(float) for right in (96, 98))
    made = [*row("with", FLAT | GOOD | {"accuracy": of}), *row("without", FLAT | {"accuracy": against})]
    guard = table(made).iloc[3]
    assert guard["difference"] < -0.02  # by the last bit alone
    assert guard["verdict"] == "kept"


@pytest.mark.parametrize(
    ("gains", "verdict", "reason"),
    [
        (GOOD, "supported", "pixels gains, referee gains, guard kept"),
        ({"ssim": 0.1, "vendi": 0.1}, "supported", "pixels gains, referee gains, guard kept"),
        ({"rmse": 0.1, "ssim": 0.1}, "mixed", "pixels gains, referee no gain, guard kept"),
        ({"vendi": 0.1}, "mixed", "pixels no gain, referee gains, guard kept"),
        ({}, "not supported", "pixels no gain, referee no gain, guard kept"),
        (GOOD | {"accuracy": -0.1}, "not supported", "pixels gains, referee gains, guard broken"),
    ],
)
def test_the_verdict_on_a_data_set_says_why(gains, verdict, reason):
    found = on_one(rows(**gains))
    assert (found["verdict"], found["reason"]) == (verdict, reason)
    assert (found["dataset"], found["of_variant"], found["against_variant"]) == ("digits", "with", "without")
    assert found["metric"] == "" and pd.isna(found["difference"])


# ---- gaps in the records -------------------------------------------------------------------------------------------


def test_a_row_that_was_not_run_leaves_it_undecided_with_one_reason():
    absent = record("one", 0, variant="with", dataset="digits", key="absent", **PLACE)
    found = table(row("without", FLAT), planned=[absent])
    why = "cnn · one (with): no record"
    assert found["verdict"].tolist() == ["no value"] * 4 + ["undecided"] * 2
    assert found["reason"].tolist()[:5] == [*[why] * 4, f"pixels not known, referee not known, guard no value; {why}"]


def test_a_skipped_row_is_undecided_with_its_reason():
    skipped = record(
        "one", 0, variant="with", dataset="digits", status="skipped", error="no BatchNorm", key="s", **PLACE
    )
    found = on_one([*row("without", FLAT), (skipped, {})])
    assert found["verdict"] == "undecided"
    assert found["reason"].endswith("guard no value; cnn · one (with): skipped: no BatchNorm")


def test_one_seed_has_no_spread():
    made = [*row("with", dict.fromkeys(FLAT, BASE[:1] + 0.1)), *row("without", dict.fromkeys(FLAT, BASE[:1]))]
    found = table(made)
    assert found["verdict"].tolist() == ["unclear"] * 4 + ["undecided"] * 2
    assert found["reason"][0] == "one seed has no spread" and pd.isna(found["seed_spread"][0])
    assert found["difference"][0] == pytest.approx(0.1)  # shown all the same


def test_seeds_that_are_missing_are_counted():
    made = [one for one in rows(**GOOD) if one[0].key != "digits_with_2"]
    late = record("one", 2, variant="with", dataset="digits", key="digits_with_2", **PLACE)
    found = table(made, planned=[late])
    assert found["reason"][0] == "2 of 3 seeds have a value in every row"
    assert (found["n_seeds"][0], found["verdict"][4]) == (2, "supported")


def test_a_metric_that_is_missing_matters_only_where_its_group_does_not_gain():
    undefined = {"status": "undefined", "value": None, "error": "one image a class", "values": None}

    def without_ssim(made):
        for one, values in made:
            readings = [each.model_copy(update=undefined) if each.stem == "ssim" else each for each in one.readings]
            yield one.model_copy(update={"readings": tuple(readings)}), values

    gained = on_one(list(without_ssim(rows(**GOOD))))
    assert gained["verdict"] == "supported"
    left = on_one(list(without_ssim(rows(vendi=0.1))))
    assert (left["verdict"], left["reason"]) == (
        "undecided",
        "pixels not known, referee gains, guard kept; cnn · one (with): undefined: one image a class",
    )


def test_boards_without_intervals_decide_nothing_but_what_the_guard_decides():
    assert on_one(rows(**GOOD), intervals=False)["verdict"] == "undecided"
    assert on_one(rows(accuracy=-0.1, **GOOD), intervals=False)["verdict"] == "not supported"


def test_a_metric_without_direction_is_unclear():
    found = table(rows(cards={"rmse": {"better": "neither"}}, **GOOD)).iloc[0]
    assert (found["verdict"], found["reason"]) == ("unclear", "the metric has no better direction")


# ---- several data sets ---------------------------------------------------------------------------------------------

SETS = ("digits", "mnist", "cifar10")


def several(*gains):
    return [one for dataset, gain in zip(SETS, gains, strict=True) for one in rows(dataset, **gain)]


def across(made, *datasets, **changes):
    found = table(made, claim(*datasets), **changes).to_dict("records")[-1]
    assert found["part"] == "across data sets" and found["dataset"] == ""
    return found["verdict"], found["reason"]


def test_one_data_set_decides_nothing_across_them():
    assert across(rows(**GOOD)) == (
        "undecided",
        "1 of the 3 data sets that it takes have a verdict; supported on digits",
    )


def test_a_data_set_that_was_not_run_is_named():
    made = [one for one in several(GOOD, GOOD, GOOD) if one[0].identity.dataset != "cifar10"]
    late = [
        record("one", 0, variant=variant, dataset="cifar10", key=variant, **PLACE) for variant in ("with", "without")
    ]
    assert across(made, *SETS, planned=late) == (
        "undecided",
        "2 of the 3 data sets that it takes have a verdict; supported on digits, mnist; undecided on cifar10",
    )


def test_three_that_agree_decide():
    assert across(several(GOOD, GOOD, GOOD), *SETS) == ("supported", "supported on digits, mnist, cifar10")
    assert across(several({}, {}, {}), *SETS) == ("not supported", "not supported on digits, mnist, cifar10")
    assert across(several(GOOD, {}, {"rmse": 0.1}), *SETS) == (
        "mixed",
        "supported on digits; mixed on cifar10; not supported on mnist",
    )


def test_each_data_set_is_compared_with_itself():
    found = table(several(GOOD, {}, GOOD), claim(*SETS))
    assert found[found["metric"] == "rmse"]["dataset"].tolist() == list(SETS)
    assert found[found["metric"] == "rmse"]["difference"].tolist() == pytest.approx([0.1, 0.0, 0.1])
    assert found[found["part"] == "data set"]["verdict"].tolist() == ["supported", "not supported", "supported"]


# ---- files ---------------------------------------------------------------------------------------------------------

PLAIN = Claim(
    claim="One <b>beats</b> the other, [red]says[/] nobody.",
    track="reconstruction",
    metrics=("rmse",),
    pairs=claim().pairs,
)


def some_boards(order=1):
    made = [*several(GOOD, {}, {"rmse": 0.1, "accuracy": -0.1})]
    return boards_of(made[::order], claims=(PLAIN, claim(*SETS)))


def test_rows_stand_in_the_order_of_the_rule():
    found = some_boards().claims
    assert found["part"].tolist() == [
        "",
        *["gain in pixels", "gain in pixels", "gain in referee", "guard", "data set"] * 3,
        "across data sets",
    ]
    assert found["metric"].tolist()[:6] == ["rmse", "rmse", "ssim", "vendi", "accuracy", ""]
    assert found["verdict"][0] == "holds" and found["seed_spread"].isna()[0]
    assert set(found["suite_version"]) == {"1.0.0"}


def test_records_in_any_order_give_the_same_file_and_it_comes_back(tmp_path):
    for order in (1, -1):
        write(some_boards(order), tmp_path / str(order))
    assert (tmp_path / "1" / "claims.csv").read_bytes() == (tmp_path / "-1" / "claims.csv").read_bytes()
    pd.testing.assert_frame_equal(load_boards(tmp_path / "1").claims, some_boards().claims)


def test_columns_of_verdicts_are_written_and_explained_only_where_there_are_any(tmp_path):
    write(some_boards(), tmp_path / "verdicts")
    write(boards_of(several(GOOD, {}, {}), claims=(PLAIN,)), tmp_path / "plain")
    heads = {}
    for name in ("verdicts", "plain"):
        heads[name] = next(csv.reader((tmp_path / name / "claims.csv").open(newline="", encoding="utf-8")))
        assert list(json.loads((tmp_path / name / "schema.json").read_text())["claims"]) == heads[name]
        assert load_boards(tmp_path / name).claims is not None
    assert heads["verdicts"] == [*heads["plain"], "part", "seed_spread"]


# ---- for people ----------------------------------------------------------------------------------------------------


def shown(boards, width=400):
    console = Console(file=StringIO(), width=width, no_color=True)
    print_boards(boards, console)
    return console.file.getvalue()


def test_the_terminal_shows_a_line_a_data_set_with_verdict_and_numbers():
    boards = some_boards()
    lines = [line.rstrip() for line in shown(boards).split("\nverdicts")[1].splitlines()]
    assert lines[0] == (
        " — on one data set: supported 1, mixed 0, not supported 2, undecided 0; "
        "across data sets: supported 0, mixed 1, not supported 0, undecided 0"
    )
    assert "It buys diversity. (Somebody 2024)" in lines
    assert (
        "reconstruction, with against without; supported where a metric of each of pixels, referee gains more than the "
        "seed spread with its interval above 0, and accuracy loses at most 0.02"
    ) in lines
    judged = [line for line in lines if re.match(r"(supported|mixed|not supported|undecided)  ", line)]
    assert len(judged) == 4
    first = boards.claims.iloc[1]
    assert judged[0] == "supported      digits · cnn · one: pixels gains, referee gains, guard kept"
    below = [line.strip() for line in lines[lines.index(judged[0]) + 1 :][:4]]
    assert below[0] == (
        f"pixels: rmse +{first['difference']:.4f} [+{first['ci_low']:.4f}, +{first['ci_high']:.4f}], "
        f"seed spread {first['seed_spread']:.4f}, 3 seeds: gains"
    )
    assert [line.split(":")[0] for line in below] == ["pixels", "pixels", "referee", "guard"]
    assert [line.split(": ")[-1] for line in below] == ["gains", "no gain", "gains", "kept"]
    assert judged[3] == "mixed          across data sets: supported on digits; not supported on mnist, cifar10"


@pytest.mark.parametrize("width", [60, 100])
def test_no_line_is_wider_than_the_console(width):
    assert max(map(len, shown(some_boards(), width).splitlines())) <= width


def test_claims_alone_are_counted_as_comparisons():
    assert "claims — holds 1, fails 0, unclear 0; comparisons: 1, each" in shown(some_boards())


def test_the_page_shows_every_verdict_and_escapes_it(tmp_path):
    boards = boards_of(several(GOOD, {}, GOOD), claims=(claim(*SETS, claim="<b>Bold</b> [red]device[/]."),))
    write_page(boards, tmp_path)
    text = (tmp_path / "claims.html").read_text()
    assert 'href="claims.html"' in (tmp_path / "index.html").read_text()
    assert "&lt;b&gt;Bold&lt;/b&gt; [red]device[/]." in text and "<b>Bold" not in text
    assert text.count("<td class=supported>supported") == 2
    assert text.count("<td class=not_supported>not supported") == 1
    assert "seed spread" in text


def test_what_is_undecided_is_no_failure_on_the_page(tmp_path):
    write_page(boards_of(rows(**GOOD), claims=(claim(),)), tmp_path)
    text = (tmp_path / "claims.html").read_text()
    assert "<td class=undecided>undecided" in text and "class=no_value" not in text


def two_devices():
    """One compared on three data sets, one on the second alone."""
    sets = list(SETS)
    claims = (claim(*sets), claim(sets[1], claim="It <costs> nothing."))
    return boards_of(several(GOOD, {}, {}), claims=claims)


def test_where_no_metric_has_a_value_the_reason_stands_alone():
    absent = record("one", 0, variant="with", dataset="digits", key="absent", **PLACE)
    boards = boards_of(row("without", FLAT), planned=[absent], claims=(claim(),))
    lines = [line.strip() for line in shown(boards).split("\nverdicts")[1].splitlines()]
    assert not any(line.startswith(("pixels:", "referee:", "guard:")) for line in lines)
    assert any("digits · cnn · one: pixels not known" in line and line.endswith("no record") for line in lines)


def test_several_claims_are_shown_at_a_glance_with_a_column_a_data_set(tmp_path):
    boards = two_devices()
    lines = [re.split(r"  +", line.strip()) for line in shown(boards).split("\nverdicts")[1].splitlines()]
    expected = [
        ["claim", "digits", "mnist", "cifar10", "across data sets"],
        ["It buys diversity.", "supported", "not supported", "not supported", "mixed"],
        ["It <costs> nothing.", "–", "not supported", "–", "undecided"],
    ]
    assert [line for line in lines if len(line) == 5] == expected
    write_page(boards, tmp_path)
    table = re.search(
        '<table class="list sortable glance">.*?</table>', (tmp_path / "claims.html").read_text(), re.DOTALL
    )
    words = [re.sub("<.*?>", " | ", row).split("|") for row in table[0].split("<tr>")[1:]]
    words = [[word.strip() for word in row if word.strip()] for row in words]
    assert words == [*expected[:2], ["It &lt;costs&gt; nothing.", *expected[2][1:]]]
    write_page(some_boards(), tmp_path / "one")
    assert "glance" not in (tmp_path / "one" / "claims.html").read_text()


def test_boards_without_verdicts_do_not_mention_them(tmp_path):
    boards = boards_of(rows(), claims=(PLAIN,))
    write(boards, tmp_path)
    write_page(boards, tmp_path)
    texts = [path.read_text() for path in tmp_path.glob("*.*") if path.suffix != ".css"]
    assert len(texts) > 6 and not any("seed_spread" in text or "supported" in text for text in texts)
    assert "verdicts" not in shown(boards)
