"""The part ``settings`` of a sidecar: what each row was made with, each thing said once."""

import json

import pytest

from bench.leaderboard import load_boards, row_settings, write
from tests.right.making import boards_of, reading, record

SPEC = {"budget": 60, "images": 200, "batch_size": 64, "references": 0, "targets": None, "source": "ab12"}


def made(method="one", seed=0, **changes):
    changes = {"spec": SPEC, "settings": {"step_size": 0.1, "layers": ["a", "b"]}} | changes
    return record(method, seed, readings=[reading()], **changes), {}


def settings_in(*records, track="reconstruction"):
    return boards_of(list(records)).sidecars[track]["settings"]


def row(method="one", condition="layer3", **changes):
    names = {"dataset": "digits", "subject": "cnn.digits.sgd", "condition": condition}
    return names | {"method": method, "variant": "default"} | changes


def test_a_method_with_equal_settings_everywhere_has_one_block():
    records = [made(seed=seed, condition=condition) for seed in (0, 1) for condition in ("layer1", "layer3")]
    assert settings_in(*records) == [
        {
            "method": "one",
            "variant": "default",
            "settings": {"step_size": 0.1, "layers": ["a", "b"]},
            "budget": 60,
            "images": 200,
            "batch_size": 64,
            "references": 0,
        }
    ]


def test_rows_that_differ_are_named():
    records = [made(condition=name) for name in ("layer1", "layer2")]
    found = settings_in(*records, made(condition="layer3", spec=SPEC | {"budget": 30}))
    place = {"dataset": "digits", "subject": "cnn.digits.sgd"}
    assert [(block["budget"], block["rows"]) for block in found] == [
        (60, [place | {"condition": "layer1"}, place | {"condition": "layer2"}]),
        (30, [place | {"condition": "layer3"}]),
    ]


def test_seeds_that_differ_are_listed():
    found = settings_in(made(seed=0), made(seed=1, spec=SPEC | {"batch_size": 32}), made(seed=2))
    assert [(block["batch_size"], block["rows"][0]["seeds"]) for block in found] == [(64, [0, 2]), (32, [1])]


@pytest.mark.parametrize(
    ("start", "said"),
    [("resnet20.akamaster@12fc", "resnet20.akamaster"), ("b6ce930b14979cc5", "a training of its own")],
)
def test_training_says_its_recipe_and_its_start(start: str, said: str):
    spec = {"recipe": {"epochs": 4, "batch_size": 64}, "training_images": 500, "images": 100, "start": start}
    (block,) = settings_in(made(track="training", spec=spec), track="training")
    assert (block["recipe"], block["training_images"]) == ({"epochs": 4, "batch_size": 64}, 500)
    assert block["start"] == said


def test_two_seeds_that_start_from_two_trainings_do_not_differ():
    (block,) = settings_in(*(made(seed=seed, spec={"start": key}) for seed, key in enumerate(("aa", "bb"))))
    assert "rows" not in block


def test_numbers_that_json_does_not_know_are_text(tmp_path):
    boards = boards_of([made(settings={"bound": float("inf"), "nested": {"low": [float("-inf"), 1.5]}})])
    write(boards, tmp_path)
    (block,) = json.loads((tmp_path / "reconstruction.json").read_text())["settings"]
    assert block["settings"] == {"bound": "inf", "nested": {"low": ["-inf", 1.5]}}


def test_a_row_without_a_record_has_none():
    planned, _ = made("two")
    sidecar = boards_of([made()], planned=[planned]).sidecars["reconstruction"]
    assert [block["method"] for block in sidecar["settings"]] == ["one"]
    assert row_settings(sidecar, row("two")) == []


def test_a_row_finds_its_own_block(tmp_path):
    records = [made(condition="layer1"), made(condition="layer3", spec=SPEC | {"budget": 30}), made("two")]
    write(boards_of(records), tmp_path)
    sidecar = load_boards(tmp_path).sidecars["reconstruction"]
    for wanted, budget in ((row(condition="layer1"), 60), (row(), 30), (row("two"), 60)):
        (block,) = row_settings(sidecar, wanted)
        assert block == {
            "settings": {"step_size": 0.1, "layers": ["a", "b"]},
            "budget": budget,
            "images": 200,
            "batch_size": 64,
            "references": 0,
        }


def test_a_row_whose_seeds_differ_has_a_block_of_each():
    sidecar = boards_of([made(), made(seed=1, settings={"step_size": 0.2})]).sidecars["reconstruction"]
    found = row_settings(sidecar, row())
    assert [(block["settings"]["step_size"], block["seeds"]) for block in found] == [(0.1, [0]), (0.2, [1])]


def test_boards_of_older_versions_say_nothing():
    assert row_settings({"track": "reconstruction"}, row()) == []


def test_the_order_in_which_records_come_does_not_matter():
    records = [made(method, seed) for method in ("two", "one") for seed in (0, 1)]
    assert settings_in(*records) == settings_in(*records[::-1])
