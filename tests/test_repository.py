"""What the files around the code promise each other."""

import datetime
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from bench.contract import TRACKS
from bench.plan import cards, method_cards

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = {"family-names", "given-names"}


def wanted() -> dict[str, str]:
    """Distribution → smallest version, over the dependencies and all extras."""
    extras = [need for needs in PROJECT["optional-dependencies"].values() for need in needs]
    pairs = (need.split(">=") for need in [*PROJECT["dependencies"], *extras] if not need.startswith("glassbench["))
    return {name.lower(): version for name, version in pairs}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {
        name.lower(): version for name, version in (line.split("==") for line in lines if line[:1] not in ("#", ""))
    }


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


@pytest.mark.parametrize("name", sorted(wanted()))
def test_every_dependency_is_pinned_within_its_range(name: str):
    assert numbers(pinned()[name]) >= numbers(wanted()[name])


def test_the_tool_that_builds_the_project_is_pinned_too():
    assert "setuptools" in pinned()


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "Makefile", ".ci/environment", ".ci/run"])
def test_no_file_of_the_set_up_names_an_address(name: str):
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")


def test_ranking_old_records_installs_no_torch():
    assert not any("torch" in need or "timm" in need for need in PROJECT["dependencies"])


def test_the_citation_and_the_changelog_know_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_citation_file_has_what_its_format_asks_for():
    """Citation File Format 1.2.0: required keys, and the types of those that tools read."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert isinstance(citation["message"], str) and isinstance(citation["title"], str)
    assert type(citation["date-released"]) is datetime.date
    assert all(isinstance(word, str) for word in citation["keywords"])
    for work in [citation, *citation["references"]]:
        assert work["authors"] and all({"name"} == set(who) or set(who) >= NAMES for who in work["authors"])
    for work in citation["references"]:
        assert {"type", "title", "year"} <= set(work) and isinstance(work["year"], int)
        assert [one["type"] for one in work["identifiers"]] == ["other"]
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", work["identifiers"][0]["value"])


def test_the_papers_of_the_method_suites_can_be_cited():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"arXiv:([\d.]+)", text) == ["2212.09062", "1906.01166", "2407.18002", "2503.22399"]


def test_the_page_of_methods_is_up_to_date():
    written = (ROOT / "METHODS.md").read_text(encoding="utf-8")
    assert written == method_cards.page(), f"make it anew with: python {method_cards.COMMAND}"


def test_the_page_of_metric_cards_is_up_to_date():
    written = (ROOT / "metrics" / "README.md").read_text(encoding="utf-8")
    assert written == cards.page(), f"make it anew with: python {cards.COMMAND}"


@pytest.mark.parametrize("track", TRACKS)
def test_the_guides_list_every_track_with_its_verb(track: str):
    assert f"| `{track}` |" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| `{track}` | `{TRACKS[track].verb}(task)` |" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
