"""Boards and records as people see them."""

import re
from io import StringIO

import pytest
from rich.console import Console

from bench.record import Cost
from bench.report import print_boards, show
from tests.right.making import boards_of, measured, noise, reading, record

VALUES = 0.5 + 0.1 * noise(0, 2, 40)


def boards():
    made = [
        *measured("good", VALUES + 0.3),
        *measured("bad", VALUES),
        *measured("real_images", VALUES + 0.4, is_reference=True),
        (record("broken", status="oom", error="no memory [left] <b>"), {}),
    ]
    return boards_of(made, planned=[record("late")])


def printed(function, *args, width=100):
    console = Console(file=StringIO(), width=width, no_color=True)
    function(*args, console)
    return console.file.getvalue()


def line_of(text, method):
    return next(line for line in text.splitlines() if re.search(rf"\b{method}\b", line))


def test_a_line_shows_rank_tier_value_interval_seeds_and_time():
    text = printed(print_boards, boards())
    made = boards().wide["reconstruction"].set_index("method").loc["good"]
    interval = f"{made['ssim']:.4f} [{made['ssim_ci_low']:.4f}, {made['ssim_ci_high']:.4f}]"
    assert re.match(r"\s*1 \[1–1\]\s+1\s+good\s", line_of(text, "good"))
    assert interval in line_of(text, "good")
    assert re.search(r"2/2\s+1\.5", line_of(text, "good"))


def test_the_head_says_what_ranks_and_where():
    text = printed(print_boards, boards())
    assert "reconstruction — ranked by ssim (higher is better); 1 comparisons; suite 1.0.0" in text
    assert "digits · cnn.digits.sgd · layer3" in text


def test_a_board_without_any_value_does_not_blame_the_metric():
    waiting = boards_of([(record("failed", status="oom"), {})], planned=[record("late")])
    text = printed(print_boards, waiting, width=140)
    assert re.search(r"reconstruction — ranked by nothing: ssim\w* has no value yet; 0 comparisons", text)


def test_what_has_no_result_is_named_with_its_reason():
    text = printed(print_boards, boards(), width=140)
    assert "no result: digits · cnn.digits.sgd · layer3 · broken · default · seed 0: oom: no memory [left] <b>" in text
    assert "late · default · seed 0: not run yet" in text
    assert "no rank: broken: 0 of 1 cells ok" in text
    assert "no rank: real_images: reference: shows real images" in text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_console(width):
    other = [reading(0.1, metric=f"a_metric_with_a_long_name_{place}") for place in range(6)]
    made = [(record("a_method_with_quite_a_long_name", variant="v", readings=[reading(), *other]), {})]
    text = printed(print_boards, boards_of(made), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "0.5000" in text and "a_method" in text


def test_more_metrics_are_shown_where_there_is_room():
    other = [reading(0.125, metric=f"other_{place}") for place in range(12)]
    made = boards_of([(record("one", readings=[reading(), *other]), {})])
    narrow, broad = (printed(print_boards, made, width=width).count("0.1250") for width in (90, 200))
    assert 0 < narrow < broad == 12


def test_metrics_without_any_value_are_named_once_a_reason():
    absent = [
        reading(None, metric=name, stem=name, status="unsupported", error="needs FILE: fetch x")
        for name in ("fid", "kid")
    ]
    text = printed(print_boards, boards_of([(record(readings=[reading(), *absent]), {})]), width=140)
    assert "note: no value of fid, kid: unsupported: needs FILE: fetch x" in text


def test_an_empty_board_prints_nothing_and_does_not_fail():
    assert printed(print_boards, boards_of([])) == ""


def test_a_record_is_shown_whole():
    one = record(
        readings=[reading(0.25, n_scored=40), reading(None, metric="psnr", status="undefined", error="equal images")],
        notes={
            "traceback": "Traceback\n  line two [bold]",
            "orthogonality": {"head.weight": {"residual": 0.123456, "largest": 2.0}, "stem.weight": 0.5},
        },
        cost=Cost(wall_s=1.5),
    )
    text = printed(show, one)
    for part in (
        one.key,
        "status ok",
        "step_size  0.1",
        "0.2500 fraction, higher is better, n = 40, version 1",
        "undefined: equal images",
        "wall_s  1.5",
        "2.15.0",
        "started_utc",
        "line two [bold]",
        "head.weight: residual 0.1235, largest 2\n",
        "stem.weight: 0.5\n",
    ):
        assert part in text


def test_a_long_list_in_a_records_notes_is_shown_by_its_ends():
    curve = [7.123456, *range(2, 500), 0.25]
    notes = {"report": {"history": {"loss": curve, "rates": [1.5, 0.123456]}}, "sizes": [1, 2]}
    text = printed(show, record("one", 0).model_copy(update={"notes": notes}), width=200)
    assert "history: loss 500 values [7.123, 2, 3, …, 498, 499, 0.25], rates [1.5, 0.1235]" in text
    assert re.search(r"sizes +\[1, 2\]", text)
