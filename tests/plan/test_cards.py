"""Cards: what a docstring and a decorator say, taken apart and written as a page."""

import re
from pathlib import Path

import pytest

from bench import registry
from bench.contract import TRACKS
from bench.plan import cards

DOCSTRING = """How far apart, as a formula.

mean over pixels of |x − y|²
A first paragraph that runs on and on, far enough to be broken by the width of the page and not by its author, who
goes on here.

Another one.
Source: Somebody 2020, section 1, in a title that runs on and on to the very end of the line and beyond, arXiv:
0000.00000.
Beware: it can be fooled.

Args:
    generated: what was made.

Returns:
    () float64;
    ``Undefined`` without images.
"""


def test_a_docstring_is_taken_apart_and_formulas_keep_their_lines():
    text = cards.read_docstring(DOCSTRING)
    assert text["definition"].splitlines() == [
        "How far apart, as a formula.",
        "mean over pixels of |x − y|²",
        "A first paragraph that runs on and on, far enough to be broken by the width of the page and not by its author,"
        " who goes on here.",
        "Another one.",
    ]
    assert text["Source"].endswith("beyond, arXiv: 0000.00000.")
    assert text["Beware"] == "it can be fooled."
    assert text["Returns"].split() == ["()", "float64;", "``Undefined``", "without", "images."]
    assert text["Differs"] == text["Raises"] == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("psnr", {"on boards": "``psnr_dr1``, version 1", "one for each": "image; its interval resamples images"}),
        ("vendi_referee_cosine", {"one for each": "class; its interval resamples classes"}),
        ("top1", {"tracks": "training"}),
    ],
)
def test_a_card_says_what_the_decorator_says(name: str, expected: dict[str, str]):
    facts = dict(cards.metric_facts(name))
    assert {what: facts[what] for what in expected} == expected
    assert {"definition", "value", "source", "beware"} <= facts.keys()


@pytest.mark.parametrize(
    ("name", "needed"),
    [("frechet_inception", "weights-inception-2015-12-05"), ("lpips_alex", "alexnet-owt"), ("top1", "")],
)
def test_a_card_names_the_files_that_must_be_fetched(name: str, needed: str):
    said = dict(cards.metric_facts(name)).get("needs", "")
    assert needed in said and bool(said) == bool(needed)


@pytest.mark.parametrize("bounds", [("any number", None, None), ("at most 1", None, 1.0), ("-1 to 1", -1.0, 1.0)])
def test_bounds_are_put_into_words(bounds: tuple[str, float | None, float | None]):
    words, low, high = bounds
    card = registry.metric_card("psnr")
    assert cards._range(cards.MetricCard(**{**vars(card), "bounds": (low, high)})) == words


def test_a_plugin_that_lacks_a_library_has_a_card_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_plugins", {})
    (tmp_path / "counting.py").write_text(
        '"""Counting on beads."""\n\nimport abacus\nfrom bench.contract import metric\n\n\n'
        "@metric()\ndef counting(*, generated):\n    pass\n",
        encoding="utf-8",
    )
    registry.add_plugin(tmp_path / "counting.py")
    assert cards.metric_facts("counting") == [("unsupported here", "needs abacus")]
    assert "counting" not in cards.page()


def test_the_page_has_one_card_a_metric_and_lists_it_under_each_of_its_tracks():
    page = cards.page()
    names = registry.metric_names()
    assert sorted(re.findall(r"^### (\w+)$", page, re.M)) == names
    index = page[: page.index("\n## ")]
    for track in TRACKS.values():
        start = index.index(f"* {track.name}:")
        block = index[start:].split("\n* ", 1)[0]
        own = [name for name in names if track.name in registry.metric_card(name).tracks]
        assert re.findall(r"\]\(#(\w+)\)", block) == own
        assert re.findall(r"\*\*\[(\w+)\]", block) == [track.primary]


def test_the_page_is_narrow_and_no_line_of_text_becomes_a_list():
    lines = cards.page().splitlines()
    assert max(map(len, lines)) <= cards.WIDTH
    long = "* **sum**: " + "a" * 103 + " + b"
    assert cards.wrapped(f"{long} - c") == f"{long}\n  \\- c"
    assert not [line for line in lines if re.match(r" +([-+*#]|\d+[.)]) ", line)]
