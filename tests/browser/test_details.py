"""What stands behind a row: settings, provenance, cost, pictures and plots; and names that are markup stay text."""

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.making import BREAKOUT, ERROR, LAYERS, MARKUP, NETWORKS
from tests.browser.reader import Reader

BOARD = "#reconstruction"
LOADED = "return [...document.querySelectorAll('.details img')].map(one => one.complete && one.naturalWidth)"


@pytest.fixture
def board(site: Path, reader: Reader) -> Reader:
    """A reader of the page of the board ``toy``."""
    reader.open(site / "toy.html")
    return reader


def pictures(reader: Reader) -> list[int]:
    """Widths of the pictures behind opened rows, once all are loaded."""
    return reader.wait(lambda: (found := reader.run(LOADED)) and all(found) and found, "the pictures are loaded")


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_no_picture_is_asked_for_before_a_row_is_opened(board: Reader):
    board.settle()
    assert not any("pictures" in address for address in board.requests())


def test_a_click_on_a_method_shows_its_pictures(board: Reader):
    board.click(f"{BOARD} tr.row button.more")
    assert len(pictures(board)) == 2  # one a seed
    assert board.run("return [...document.querySelectorAll('.details img')].every(one => one.loading === 'lazy')")
    links = board.run("return [...document.querySelectorAll('.details .gallery a')].map(one => one.href)")
    assert len(links) == 2 and all(link.endswith(".png") for link in links)
    assert board.complaints() == []


def test_a_row_says_which_seeds_have_pictures_of_a_later_run(board: Reader):
    board.write(f"{BOARD} input.filter", "bad layer3 mlp")
    board.click(f"{BOARD} tr.row button.more")
    assert len(pictures(board)) == 1
    assert "Seed 1: pictures of a later run: make the board again with `rank`." in board.texts(".details .soft")


def test_the_keyboard_opens_and_closes_a_row(board: Reader):
    more = f"{BOARD} tr.row button.more"
    board.focus(more)
    board.press(Keys.ENTER)
    assert len(pictures(board)) == 2 and board.one(more).get_attribute("aria-expanded") == "true"
    board.press(Keys.SPACE)
    assert not board.all("tr.details") and board.one(more).get_attribute("aria-expanded") == "false"


def test_a_link_to_a_row_opens_it_in_sight(site: Path, board: Reader):
    rows = board.run(f"return [...document.querySelectorAll('{BOARD} tr.row')].map(one => one.id)")
    assert len(set(rows)) == len(LAYERS) * len(NETWORKS) * 5
    board.open(site / "toy.html", f"#{rows[-3]}")
    assert pictures(board)
    row = board.one(f"#{rows[-3]}")
    in_sight = "const box = arguments[0].getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight"
    board.wait(lambda: board.run(in_sight, row), "the row is in sight")
    assert row.find_element("css selector", "button.more").get_attribute("aria-expanded") == "true"


def test_a_link_followed_on_the_page_shows_a_row_that_the_filter_hides(board: Reader):
    hidden = board.run(f"return document.querySelector('{BOARD} tr.row').id")
    board.write(f"{BOARD} input.filter", "no such thing")
    board.run("location.hash = arguments[0]", hidden)
    board.wait(lambda: board.all(f"#{hidden}"), "the row is there")
    assert pictures(board)


def test_behind_a_row_stand_settings_provenance_cost_and_seeds(board: Reader):
    board.click(f"{BOARD} tr.row button.more")
    said = board.wait(lambda: board.one("tr.details").text if board.all("tr.details dl") else "", "details are there")
    for what in (
        "step_size",
        "0.1",
        "weights_sha256",
        "0012345",
        "torch",
        "2.15.0",
        "backward_passes",
        "seed 0",
        "seed 1",
    ):
        assert what in said


def test_opened_rows_stay_below_their_rows_when_sorted_and_go_with_them_when_filtered(board: Reader):
    board.write(f"{BOARD} input.filter", "good layer3 cnn")
    board.click(f"{BOARD} tr.row button.more")
    board.click(f"{BOARD} button[type=reset]")
    board.wait(lambda: len(board.all(f"{BOARD} tr.row")) == 20, "all rows are back")
    above = "return document.querySelector('tr.details').previousElementSibling.textContent"
    row = board.run(above)
    assert row.startswith("1") and "good" in row
    for _ in range(2):
        board.click(f"{BOARD} thead th:nth-child(4) button")
        assert board.run(above) == row
    board.write(f"{BOARD} input.filter", "bad")
    assert not board.all("tr.details")
    board.write(f"{BOARD} input.filter", "good")
    assert len(board.all("tr.details")) == 1


def test_a_row_that_failed_says_why_behind_it_too(board: Reader):
    board.write(f"{BOARD} input.filter", "broken layer3 cnn")
    board.click(f"{BOARD} tr.row button.more")
    said = board.wait(lambda: board.one("tr.details").text if board.all("tr.details dl") else "", "details are there")
    assert "oom: <b onclick=window.hacked=1>no memory</b>" in said


# ---- plots ---------------------------------------------------------------------------------------------------------

BROKEN = """return [...document.querySelectorAll('svg.plot, svg.plot *')].flatMap(one =>
    [...one.attributes].filter(({value}) => /NaN|Infinity|undefined/.test(value)).map(({value}) => value))"""


def test_plots_are_drawn_of_whole_numbers_and_named_for_those_who_cannot_see(board: Reader):
    for track, kinds in (("reconstruction", 2), ("attribution", 4)):
        board.click(f"#{track} details.plots summary")
        board.wait(lambda track=track: board.all(f"#{track} svg.plot"), "plots are there")
        assert len(board.all(f"#{track} svg.plot")) >= kinds
    assert board.run(BROKEN) == []
    assert board.all(f"{BOARD} svg.plot .front") and len(board.all(f"{BOARD} svg.plot .point")) >= 12
    assert all(plot.get_attribute("aria-label") for plot in board.all("svg.plot"))
    assert board.complaints() == []


def test_the_filter_redraws_the_plots(board: Reader):
    board.click(f"{BOARD} details.plots summary")
    points = f"{BOARD} svg.plot.pareto .point"
    board.wait(lambda: len(board.all(points)) >= 12, "all points are there")
    board.write(f"{BOARD} input.filter", "layer3 cnn")
    board.wait(lambda: 3 <= len(board.all(points)) <= 4, "the rows of the filter are left")
    board.write(f"{BOARD} input.filter", "no such thing")
    board.wait(lambda: not board.all(f"{BOARD} svg.plot"), "nothing to draw")
    assert board.complaints() == []


def test_a_point_says_what_it_is_when_the_keyboard_gets_there(board: Reader):
    board.click("#attribution details.plots summary")
    board.wait(lambda: board.all("#attribution svg.plot .point"), "points are there")
    board.focus("#attribution svg.plot .point")
    assert "insertion_auc 0.6120" in board.one("#attribution svg.plot .tip").text


# ---- names that are markup -----------------------------------------------------------------------------------------


@pytest.fixture
def hostile(site: Path, reader: Reader) -> Reader:
    """A reader of a page whose names try to run scripts."""
    reader.open(site / "hostile.html")
    return reader


def safe(reader: Reader) -> bool:
    return reader.run("return window.hacked === undefined")


def test_names_that_are_markup_stay_text_in_the_table(hostile: Reader):
    shown = "\n".join(hostile.texts(f"{BOARD} tr"))
    for text in (MARKUP, BREAKOUT, ERROR, "<svg/onload=window.hacked=1>"):
        assert text in shown or text in hostile.one(BOARD).text
    assert safe(hostile) and not hostile.all(f"{BOARD} img, {BOARD} svg, {BOARD} b[onclick]")


def test_they_stay_text_behind_rows_in_plots_and_in_filters(hostile: Reader):
    for button in hostile.all(f"{BOARD} button.more"):
        button.click()
    hostile.wait(lambda: len(hostile.all("tr.details dl")) >= 3, "details are there")
    said = "\n".join(hostile.texts("tr.details"))
    assert MARKUP in said and BREAKOUT in said and ERROR in said
    hostile.click(f"{BOARD} details.plots summary")
    hostile.wait(lambda: hostile.all(f"{BOARD} .plots figure"), "plots are there")
    hostile.write(f"{BOARD} input.filter", MARKUP)
    hostile.click(f"{BOARD} thead th:nth-child(3) button")
    hostile.settle()
    assert safe(hostile) and hostile.complaints() == []


def test_they_stay_text_on_the_other_pages(site: Path, reader: Reader):
    for name in ("index.html", "claims.html"):
        reader.open(site / name)
        reader.settle()
        assert safe(reader)
    reader.open(site / "index.html")
    reader.write("form.tools input.filter", "hostile")
    assert MARKUP in "".join(reader.texts("details.leaders"))


def test_a_script_that_gets_into_a_page_would_be_noticed(site: Path, reader: Reader, tmp_path: Path):
    (tmp_path / "bad.html").write_text(MARKUP, encoding="utf-8")
    reader.open(tmp_path / "bad.html")
    assert not safe(reader)
