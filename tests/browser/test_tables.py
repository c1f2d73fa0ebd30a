"""Boards are sorted and filtered, with the mouse and with the keyboard."""

import re
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.reader import Reader

BOARD = "#reconstruction"
PSNR_OF = {"good": 100.5, "fine": 9.5, "bad": 20.25}


@pytest.fixture
def board(site: Path, reader: Reader) -> Reader:
    """A reader of the page of the board ``toy``."""
    reader.open(site / "toy.html")
    return reader


def head(name: str) -> int:
    """Place of a column of the reconstruction board."""
    return ["rank", "tier", "method", "ssim", "subject", "condition", "psnr", "seeds", "wall s"].index(name) + 1


def button(name: str) -> str:
    return f"{BOARD} thead th:nth-child({head(name)}) button"


def column(reader: Reader, name: str) -> list[str]:
    return reader.texts(f"{BOARD} tr.row > :nth-child({head(name)})")


def numbers(texts: list[str]) -> list[float]:
    """Of those that have one."""
    return [float(found[0]) for text in texts if (found := re.match(r"-?\d+(\.\d+)?", text))]


def sorting(reader: Reader, name: str) -> str | None:
    return reader.one(f"{BOARD} thead th:nth-child({head(name)})").get_attribute("aria-sort")


def choose(reader: Reader, name: str, choice: str) -> None:
    reader.run("arguments[0].scrollIntoView({block: 'center'})", reader.one(f"{BOARD} select[name={name}]"))
    reader.one(f"{BOARD} select[name={name}]").send_keys(choice)


def test_the_heads_are_the_ones_that_these_tests_count_on(board: Reader):
    heads = [re.sub(r"\s+", " ", text.rstrip(" ↑↓↕")) for text in board.texts(f"{BOARD} thead th")]
    assert heads[head("psnr") - 1] == "psnr" and heads[head("wall s") - 1] == "wall s" and len(heads) == head("wall s")


# ---- sorting -------------------------------------------------------------------------------------------------------


def test_a_click_sorts_numbers_as_numbers_with_missing_ones_last(board: Reader):
    board.click(button("psnr"))
    found = column(board, "psnr")
    values = numbers(found)
    assert len(values) == 11 and values == sorted(values) and values[0] < 20 < 100 < values[-1]
    assert sorting(board, "psnr") == "ascending"
    assert not numbers(found[11:])  # four real images, four broken cells, one without this metric


def test_a_second_click_reverses_and_missing_ones_stay_last(board: Reader):
    board.click(button("psnr"))
    board.click(button("psnr"))
    found = column(board, "psnr")
    assert numbers(found[:11]) == sorted(numbers(found), reverse=True) and len(numbers(found[:11])) == 11
    assert sorting(board, "psnr") == "descending"


def test_a_third_click_brings_the_order_of_the_page_back(board: Reader):
    before = board.texts(f"{BOARD} tr.row")
    for _ in range(3):
        board.click(button("psnr"))
    assert board.texts(f"{BOARD} tr.row") == before
    assert sorting(board, "psnr") in (None, "none")


def test_one_column_at_a_time_is_marked_as_sorted(board: Reader):
    board.click(button("psnr"))
    board.click(button("ssim"))
    marked = board.all(f"{BOARD} th[aria-sort=ascending], {BOARD} th[aria-sort=descending]")
    assert [mark.text.rstrip(" ↑↓↕") for mark in marked] == ["ssim"]


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE], ids=["enter", "space"])
def test_the_keyboard_sorts_too(board: Reader, key: str):
    board.focus(button("wall s"))
    board.press(key)
    values = numbers(column(board, "wall s"))
    assert values == sorted(values) and sorting(board, "wall s") == "ascending"
    board.press(key)  # the focus has stayed on the button
    assert numbers(column(board, "wall s")) == sorted(values, reverse=True)


def test_methods_are_sorted_by_name(board: Reader):
    board.click(button("method"))
    names = [text.split()[0] for text in column(board, "method")]
    assert names == sorted(names) and len(set(names)) == 5


# ---- filters -------------------------------------------------------------------------------------------------------


def test_text_filters_rows_and_they_are_counted(board: Reader):
    assert board.one(f"{BOARD} .count").text == "20 of 20 rows"
    board.write(f"{BOARD} input.filter", "GOOD layer3")
    assert board.one(f"{BOARD} .count").text == "2 of 20 rows"
    assert all("good" in text and "layer3" in text for text in board.texts(f"{BOARD} tr.row"))
    board.write(f"{BOARD} input.filter", "no such thing")
    assert board.texts(f"{BOARD} tr.row") == []
    assert board.one(f"{BOARD} .count").text == "0 of 20 rows"


def test_filters_of_several_kinds_hold_together_and_keep_the_lead_in_sight(board: Reader):
    choose(board, "subject", "mlp.digits.sgd")
    choose(board, "condition", "layer2")
    assert board.one(f"{BOARD} .count").text == "5 of 20 rows"
    (lead,) = board.texts(f"{BOARD} .lead")
    assert lead.startswith("good is first with") and "The lead is real" in lead
    board.write(f"{BOARD} input.filter", "fine")
    assert len(board.texts(f"{BOARD} tr.row")) == 1
    assert board.texts(f"{BOARD} .lead") == [lead]  # it speaks of the group, not of what the filter leaves


def test_a_sorted_board_stays_sorted_when_it_is_filtered(board: Reader):
    board.click(button("psnr"))
    choose(board, "subject", "cnn.digits.sgd")
    choose(board, "condition", "layer3")
    values = numbers(column(board, "psnr"))
    assert len(values) == 3 and values == sorted(values)
    assert len(board.texts(f"{BOARD} .lead")) == 1


def test_reset_shows_all_rows_again(board: Reader):
    board.write(f"{BOARD} input.filter", "fine")
    board.click(f"{BOARD} button[type=reset]")
    board.wait(lambda: board.one(f"{BOARD} .count").text == "20 of 20 rows", "all rows are back")


def test_a_filter_leaves_ranks_and_tiers_alone(board: Reader):
    before = set(board.texts(f"{BOARD} tr.row"))
    board.write(f"{BOARD} input.filter", "bad")
    left = board.texts(f"{BOARD} tr.row")
    assert len(left) == 4 and set(left) <= before


def test_the_filter_of_one_track_leaves_the_others_alone(board: Reader):
    others = board.texts("#attribution tr.row")
    board.write(f"{BOARD} input.filter", "fine")
    assert board.texts("#attribution tr.row") == others != []


# ---- columns -------------------------------------------------------------------------------------------------------


def test_any_other_metric_can_be_added_as_a_column_and_sorted(board: Reader):
    assert "extra_3" not in "".join(board.texts("#attribution thead th"))
    board.one("#attribution select.column").send_keys("extra_3")
    board.wait(lambda: board.all("#attribution thead th:last-child button"), "the column is there")
    board.wait(lambda: "extra_3" in board.one("#attribution thead th:last-child").text, "it has its name")
    board.click("#attribution thead th:last-child button")
    values = numbers(board.texts("#attribution tr.row > :last-child"))
    assert values == sorted(values) == [3.0, 13.0, 23.0, 33.0]


# ---- without scripts -----------------------------------------------------------------------------------------------


def test_the_tables_read_without_scripts(site: Path, reader: Reader):
    reader.open(site / "toy.html", scripts=False)
    assert len(reader.texts(f"{BOARD} tr.row")) == 20
    assert len([text for text in reader.texts(f"{BOARD} tr.row") if re.search(r"good\s+0\.7\d+ \[0\.\d+, ", text)]) == 4
    assert not reader.all("form.tools, details.plots, thead button")  # nothing is offered that would not work
    assert "scripts" in reader.one("noscript").text
