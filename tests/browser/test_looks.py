"""The pages are readable: light and dark, on a phone, with the keyboard alone."""

from itertools import pairwise
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.reader import Reader

PAGES = ("index.html", "toy.html", "claims.html")
ENOUGH = 4.5  # contrast of text, WCAG 2.2, 1.4.3
VISIBLE_TEXTS = """
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = new Map();
const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = colour => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
};
const paper = node => {
    for (let one = node; one; one = one.parentElement) {
        const colour = rgba(getComputedStyle(one).backgroundColor);
        if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
};
while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), node = texts.currentNode.parentElement;
    if (!text || !node.checkVisibility() || node.closest('svg, option')) continue;
    const ink = rgba(getComputedStyle(node).color);
    found.set([ink, paper(node)].join(), [text.slice(0, 40), ink, paper(node)]);
}
return [...found.values()];
"""


def luminance(colour: list[int]) -> float:
    """Relative luminance of sRGB bytes."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (byte / 255 for byte in colour[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(ink: list[int], paper: list[int]) -> float:
    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_the_one_of_the_standard():
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([119, 119, 119], [255, 255, 255]) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_all_text_stands_out_from_its_paper(site: Path, reader: Reader, name: str, theme: str):
    reader.prefer(theme)
    reader.open(site / name)
    if name == "toy.html":
        reader.click("tr.row button.more")
        reader.wait(lambda: reader.all("tr.details dl"), "details are there")
    found = reader.run(VISIBLE_TEXTS)
    assert len(found) >= 3
    weak = {text: round(contrast(ink, paper), 2) for text, ink, paper in found if contrast(ink, paper) < ENOUGH}
    assert weak == {}


def test_the_themes_differ(site: Path, reader: Reader):
    papers = []
    for theme in ("light", "dark"):
        reader.prefer(theme)
        reader.open(site / "toy.html")
        papers.append(reader.one("body").value_of_css_property("background-color"))
    assert papers[0] != papers[1]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_no_wider_than_a_phone(site: Path, reader: Reader, name: str):
    reader.resize(360, 740)
    reader.open(site / name)
    for opener in ("tr.row button.more", "section.track details.plots summary", "details.leaders summary"):
        if reader.all(opener):
            reader.click(opener)
    reader.settle()
    assert reader.run("return innerWidth") == 360
    assert reader.run("return document.documentElement.scrollWidth") <= 360


def test_tab_reaches_everything_in_the_order_of_the_page_and_shows_where_it_is(site: Path, reader: Reader):
    reader.open(site / "toy.html")
    reached, places = [], []
    for _ in range(120):
        reader.press(Keys.TAB)
        focused = reader.focused
        if focused.tag_name == "body":
            break
        look = (
            "const {outlineStyle, outlineWidth} = getComputedStyle(arguments[0]); return [outlineStyle, outlineWidth]"
        )
        style, width = reader.run(look, focused)
        assert style != "none" and width != "0px", focused.get_attribute("outerHTML")[:200]
        reached.append(focused)
        places.append(focused.id)
    follow = "return arguments[0].compareDocumentPosition(arguments[1]) & Node.DOCUMENT_POSITION_FOLLOWING"
    assert all(reader.run(follow, one, after) for one, after in pairwise(reached))
    wanted = "a[href], button, input, select, summary"
    offered = {element.id for element in reader.all(wanted)}
    assert len(offered) > 40 and offered <= set(places)
