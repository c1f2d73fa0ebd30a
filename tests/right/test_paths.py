"""``paths.csv``: from the notes of trained networks, beside the boards, and only where there are such notes."""

import csv
import json

import pytest

from bench.leaderboard import load_boards, write
from tests.right.making import boards_of, reading, record

ROWS = [["layer1.conv", "on_rate", "", 0.75, 200], ["layer1.conv", "class_on_rate", "cat", None, 0]]


def trained(method="decoupling", seed=0, *, note=True, concepts=None, **changes):
    notes = {"paths": {"rows": ROWS, "concepts": concepts, "warnings": []}} if note else {}
    changes = {"track": "training", "subject": "cnn", "condition": ""} | changes
    return record(method, seed, readings=[reading(metric="top1")], notes=notes, **changes), {}


def rows_of(folder):
    with (folder / "paths.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_of_the_note_says_whose_it_is(tmp_path):
    write(boards_of([trained(seed=1), trained("sgd", note=False)]), tmp_path)
    common = {
        "suite_version": "1.0.0",
        "dataset": "digits",
        "subject": "cnn.digits.decoupling",
        "method": "decoupling",
        "variant": "default",
        "seed": "1",
        "layer": "layer1.conv",
    }
    assert rows_of(tmp_path) == [
        common | {"measure": "on_rate", "group": "", "value": "0.75", "n": "200"},
        common | {"measure": "class_on_rate", "group": "cat", "value": "", "n": "0"},  # kept without a value
    ]


def test_a_variant_is_part_of_the_subject_as_on_other_boards(tmp_path):
    write(boards_of([trained(variant="no_alignment")]), tmp_path)
    assert {row["subject"] for row in rows_of(tmp_path)} == {"cnn.digits.decoupling.no_alignment"}


def test_what_concepts_say_stands_below(tmp_path):
    write(boards_of([trained(concepts={"rows": [["layer1.conv", "best_iou", "disc", 0.5, 40]]})]), tmp_path)
    assert [row["measure"] for row in rows_of(tmp_path)] == ["on_rate", "class_on_rate", "best_iou"]


def test_without_notes_there_is_no_file_and_an_old_one_goes(tmp_path):
    write(boards_of([trained()]), tmp_path)
    assert "paths" in json.loads((tmp_path / "schema.json").read_text())
    write(boards_of([trained(note=False)]), tmp_path)
    assert not (tmp_path / "paths.csv").exists()
    assert "paths" not in json.loads((tmp_path / "schema.json").read_text())


def test_the_schema_explains_measures_and_says_where(tmp_path):
    write(boards_of([trained()]), tmp_path)
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert schema["path_measures"]["on_rate"] == "share of the layer's gates that are on, mean over images; 0 to 1"
    assert "path_measures" in schema["paths"]["measure"]["meaning"]
    write(boards_of([trained(note=False)]), tmp_path)
    assert "path_measures" not in json.loads((tmp_path / "schema.json").read_text())


def test_a_note_of_a_fault_is_no_row():
    faulty, values = trained()
    faulty = faulty.model_copy(update={"notes": {"paths": {}, "paths_error": "ValueError: no"}})
    assert boards_of([(faulty, values)]).paths is None


def test_the_file_is_read_as_it_was_written(tmp_path):
    boards = boards_of([trained(seed=0), trained(seed=1)], primary={"training": "top1"})
    write(boards, tmp_path / "smoke")
    assert load_boards(tmp_path / "smoke").paths.equals(boards.paths)


def test_a_line_of_another_length_is_refused():
    faulty, values = trained()
    faulty = faulty.model_copy(update={"notes": {"paths": {"rows": [["layer1.conv", "on_rate", 0.75]]}}})
    with pytest.raises(ValueError, match="zip"):
        boards_of([(faulty, values)])
