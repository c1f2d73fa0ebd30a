"""The pages open from disk in a real browser, ask for nothing else, and say what they should."""

import re
from pathlib import Path

import pytest

from bench.leaderboard import load_boards
from tests.browser.reader import Reader

PAGES = ("index.html", "toy.html", "hostile.html", "claims.html")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_a_complaint_and_asks_for_files_of_its_folder_alone(site: Path, reader: Reader, name: str):
    reader.open(site / name)
    reader.settle()
    asked = [address for address in reader.requests() if address != "about:blank"]
    assert asked and all(address.startswith(site.as_uri()) for address in asked)
    assert reader.complaints() == []


def test_the_console_is_listened_to(site: Path, reader: Reader):
    reader.open(site / "index.html")
    reader.run("console.error('heard')")
    reader.run("document.body.append(Object.assign(document.createElement('img'), {src: 'none.png'}))")
    reader.wait(lambda: reader.requests()[-1:] == [(site / "none.png").as_uri()], "the picture is asked for")
    assert len(reader.complaints()) == 2


def test_every_link_of_the_pages_leads_somewhere(site: Path, reader: Reader):
    ids = {}
    links = {}
    for name in PAGES:
        reader.open(site / name)
        ids[name] = set(reader.run("return [...document.querySelectorAll('[id]')].map(one => one.id)"))
        links[name] = reader.run("return [...document.links].map(one => [one.pathname.split('/').pop(), one.hash])")
    assert all(
        file in ids and (not hash_ or hash_[1:] in ids[file]) for found in links.values() for file, hash_ in found
    )
    assert {"toy.html", "hostile.html", "claims.html"} <= {file for file, _ in links["index.html"]}


def test_the_list_of_boards_leads_to_the_leader_of_a_group(site: Path, reader: Reader):
    reader.open(site / "index.html")
    reader.write("form.tools input.filter", "reconstruction cnn layer3")
    (line,) = [text for text in reader.texts("details.leaders tbody tr") if "toy" in text]
    assert re.search(r"good\s+0\.\d+ \[0\.\d+, 0\.\d+\]\s+real", line)
    reader.click("details.leaders[open] tbody tr:not([hidden]) a[href^='toy.html#']")
    row = reader.wait(lambda: reader.all("tr.row:target"), "a row is the target")[0]
    assert "good" in row.text and "cnn.digits.sgd" in row.text and "layer3" in row.text


def test_the_claims_page_answers(site: Path, reader: Reader):
    reader.open(site / "claims.html")
    assert "Someone 2024" in reader.one("section.paper h2").text
    said = dict(zip(reader.texts("section.paper h3"), reader.texts("table.claims td:first-child"), strict=True))
    assert said == {"Good beats bad.": "holds", "Bad beats good.": "fails"}
    numbers = reader.one("table.claims tbody tr").text
    assert "+0.4000 [+0.4000, +0.4000]" in numbers and "0.7120" in numbers and "0.3120" in numbers


def test_every_row_of_the_board_is_on_the_page_with_its_rank_and_value(site: Path, reader: Reader):
    wide = load_boards(site.parent / "boards" / "toy").wide["reconstruction"]
    reader.open(site / "toy.html")
    shown = reader.texts("#reconstruction tr.row")
    assert len(shown) == len(wide)
    for row in wide.dropna(subset="rank").to_dict("records"):
        start = rf"{row['rank']} \[{row['rank_low']}–{row['rank_high']}\]\s+{row['tier']}\s+{row['method']}\s"
        assert any(re.match(start, text) and f"{row['ssim']:.4f} [" in text for text in shown)


def test_a_cell_that_failed_shows_its_reason_and_no_number(site: Path, reader: Reader):
    reader.open(site / "toy.html")
    broken = next(text for text in reader.texts("#reconstruction tr.row") if "broken" in text)
    assert "seed 0: oom: <b onclick=window.hacked=1>no memory</b>" in broken
    assert not re.search(r"\d\.\d{4}", broken)
    reader.click("#reconstruction details.failures summary")
    assert sum("oom" in text for text in reader.texts("#reconstruction details.failures li")) == 4


def test_a_group_says_who_leads_and_whether_that_is_certain(site: Path, reader: Reader):
    reader.open(site / "toy.html")
    leads = reader.texts("#reconstruction tr.group .lead")
    assert len(leads) == 4
    assert all(re.match(r"good is first with 0\.\d{4} \[.*\]\. The lead is real", lead) for lead in leads)
