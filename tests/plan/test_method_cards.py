"""Cards of methods: what their code says of settings and data, and the page of all of them."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from markdown_it import MarkdownIt

from bench import registry
from bench.contract import TRACKS
from bench.plan import method_cards
from bench.plan.cards import WIDTH
from bench.plan.method_cards import Setting, own_settings


@dataclass(frozen=True, kw_only=True)
class Base:
    """What toys share."""

    size: int = 3  # px, side of a toy


@dataclass(frozen=True, kw_only=True)
class Toy(Base):
    """A toy."""

    size: int = 5
    # how it moves
    speed: float = 2 / 255  # a step
    law: Literal["normal", "uniform"] = "normal"
    mode: Literal["fast", "slow"] = "fast"  # or "slow"
    # of each layer,
    # from the first on
    weights: list[float] = field(default_factory=list)
    name: str


@pytest.fixture(scope="module")
def page() -> str:
    return method_cards.page()


def sections(page: str) -> dict[str, str]:
    """Heading of the third level → what stands below it."""
    parts = re.split(r"^### (.+)$", page, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_settings_are_read_as_their_author_wrote_them():
    assert own_settings(Toy) == (
        Setting("size", "5", ""),
        Setting("speed", "2 / 255", "a step", heading="how it moves"),
        Setting("law", '"normal"', "", choices=("normal", "uniform")),
        Setting("mode", '"fast"', 'or "slow"'),
        Setting("weights", "[]", "of each layer, from the first on"),
        Setting("name", "", ""),
    )
    assert method_cards.shared_bases(Toy) == [Base]


def test_a_default_that_is_set_anew_keeps_its_meaning():
    size = own_settings(Toy)[0]
    assert method_cards._inherited(size, [Base]) == Setting("size", "5", "px, side of a toy")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("training/sgd", ["images", "labels"]),
        ("inversion/pixel_ascent", ["labels"]),
        ("inversion/real_images", ["real"]),
        ("visualization/vital", ["references", "reference_labels"]),
        ("visualization/pixel_ascent", []),
        ("adversarial/pgd", ["images", "labels"]),
        ("detection/kernel_density", ["images", "clean", "clean_labels"]),
        ("attribution/random_map", []),
    ],
)
def test_a_card_names_the_data_that_the_code_looks_at(name: str, fields: list[str]):
    assert method_cards.looked_at(name) == fields


@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        ("adversarial/pgd", "needs", "the library foolbox"),
        ("training/decoupling", "needs", "convolutions behind the stem"),
        ("inversion/real_images", "beware", "shows real images"),
        ("inversion/deep_inversion", "beware", "depends on the others of its batch"),
        ("adversarial/pgd", "source", "arXiv:1706.06083"),
    ],
)
def test_a_card_says_what_the_code_says(name: str, what: str, said: str):
    assert said in dict(method_cards.facts(name))[what]


def test_a_plugin_that_lacks_a_library_has_a_card_and_is_not_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
):
    monkeypatch.setattr(registry, "_plugins", {})
    (tmp_path / "counting.py").write_text(
        '"""Counting on beads."""\n\nimport abacus\nfrom bench.contract import method\n\n\n'
        "@method(source='beads')\nclass Counting:\n    def invert(self, task):\n        pass\n",
        encoding="utf-8",
    )
    registry.add_plugin(tmp_path / "counting.py")
    assert method_cards.facts("inversion/counting") == [("unsupported here", "needs abacus")]
    assert method_cards.page() == page


def test_the_page_has_one_card_a_method_under_its_track(page: str):
    names = [name for name in sections(page) if "/" in name]
    assert names == [name for track in TRACKS for name in registry.method_names(track)]


def test_every_setting_and_variant_of_every_method_is_on_the_page(page: str):
    cards = sections(page)
    for name in registry.method_names():
        cls, card = registry.load_method(name), cards[name]
        shared = "".join(cards[f"Shared settings: {base.__name__}"] for base in method_cards.shared_bases(cls))
        for one in dataclasses.fields(cls):
            assert f"* ``{one.name}``" in card + shared, f"{name} {one.name}"
        for variant, changed in registry.method_card(name).variants.items():
            if changed:
                block = card[card.index(f"* ``{variant}``:") :].split("\n  * ")[0]
                assert set(changed) <= set(re.findall(r"``(\w+)``\s+=", block)), f"{name} {variant}"


def test_links_of_the_page_lead_to_its_headings(page: str):
    """By the rule of the usual viewers: lower case, no signs but - and _, a dash for a blank."""
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    there = {"".join(c for c in one.lower().replace(" ", "-") if c.isalnum() or c in "-_") for one in headings}
    assert len(there) == len(headings)
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert set(links) <= there and len(set(links)) >= len(registry.method_names())


def test_the_page_is_narrow_and_shows_as_it_is_meant(page: str):
    assert max(map(len, page.splitlines())) <= WIDTH
    tokens = MarkdownIt().parse(page)
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or []}
    assert not kinds & {"blockquote_open", "ordered_list_open", "html_inline", "html_block", "hr", "code_block"}
    slanted = [token.content for token in tokens for child in token.children or [] if child.type == "em_open"]
    assert all(re.fullmatch(r"\*[^*]+\*", text, re.S) for text in slanted), "only headings of settings are slanted"
