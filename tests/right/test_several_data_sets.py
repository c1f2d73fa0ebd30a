"""Boards with rows of several data sets: what is ranked and compared together, where a subject has one name on all."""

import csv
from io import StringIO

import pytest
from rich.console import Console

from bench.leaderboard import compare, write
from bench.record import Claim, RowName
from bench.report import print_boards, write_page
from tests.right.making import boards_of, measured, noise

SETS = ("cifar10", "svhn")
# Of each method on each data set: one seed of 30 images. What is better on one data set is worse on the other.
MEANS = {("one", "cifar10"): 0.9, ("two", "cifar10"): 0.8, ("one", "svhn"): 0.1, ("two", "svhn"): 0.2}


def pairs():
    names = ({"subject": "resnet20", "condition": "layer3", "variant": "default", "dataset": name} for name in SETS)
    return tuple((RowName(method="one", **name), RowName(method="two", **name)) for name in names)


def made(means):
    return [
        pair
        for place, ((method, name), mean) in enumerate(means.items())
        for pair in measured(
            method, mean + 0.01 * noise(place, 1, 30), dataset=name, subject="resnet20", key=f"{method}_{name}"
        )
    ]


@pytest.fixture(scope="module")
def boards():
    claim = Claim(claim="One beats two.", track="reconstruction", metrics=("ssim",), pairs=pairs())
    return boards_of(made(MEANS), claims=(claim,))


def test_ranks_compare_rows_of_one_data_set_only(boards):
    frame = boards.wide["reconstruction"]
    ranks = {(row["method"], row["dataset"]): row["rank"] for row in frame.to_dict("records")}
    assert ranks == {("one", "cifar10"): 1, ("two", "cifar10"): 2, ("one", "svhn"): 2, ("two", "svhn"): 1}
    groups = boards.sidecars["reconstruction"]["groups"]
    assert [(group["dataset"], group["ranked"], group["comparisons"]) for group in groups] == [
        ("cifar10", 2, 1),
        ("svhn", 2, 1),
    ]


def test_each_claim_is_answered_on_each_data_set_by_its_own_rows(boards):
    rows = boards.claims.to_dict("records")
    assert [(row["dataset"], row["verdict"]) for row in rows] == [("cifar10", "holds"), ("svhn", "fails")]
    assert [row["of_value"] for row in rows] == pytest.approx([0.9, 0.1], abs=0.01)
    assert [row["against_value"] for row in rows] == pytest.approx([0.8, 0.2], abs=0.01)


def test_every_number_of_the_files_says_its_data_set(boards, tmp_path):
    write(boards, tmp_path)
    for name, lines in (("results.csv", 8), ("reconstruction.csv", 4), ("claims.csv", 2)):
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            found = [row["dataset"] for row in csv.DictReader(file)]
        assert sorted(found) == sorted(SETS * (lines // 2)), name


def test_terminal_and_page_tell_the_data_sets_of_tables_and_answers_apart(boards, tmp_path):
    said = StringIO()
    print_boards(boards, Console(file=said, width=300))
    page = write_page(boards, tmp_path).read_text(encoding="utf-8")
    claims = (tmp_path / "claims.html").read_text(encoding="utf-8")
    for name in SETS:
        assert f"{name} · resnet20 · layer3" in said.getvalue() and f"<b>{name} · resnet20 · layer3</b>" in page
        assert f"{name} · resnet20 · layer3: one against two" in said.getvalue()
        assert f"<td>{name} · resnet20 · layer3<td>one against two" in claims


def test_a_changed_number_is_that_of_its_data_set(boards):
    (found,) = compare(boards, boards_of(made({**MEANS, ("two", "svhn"): 0.15}))).differences
    assert (found.kind, found.line[1], found.line[5]) == ("worse", "svhn", "two")
    assert found.new - found.old == pytest.approx(-0.05)
