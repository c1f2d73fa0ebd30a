"""``curves.csv``: the mean curves of attribution cells over their seeds, only where there are such notes."""

import csv
import json

import pytest

from bench.leaderboard import load_boards, write
from tests.right.making import boards_of, reading, record

FALLING, FLAT = [0.9, 0.5, 0.1], [0.6, 0.6, 0.6]


def explained(method="gradient", seed=0, *, curves=FALLING, version=1, **changes):
    notes = {} if curves is None else {"curves": {"deletion_auc_zero": curves}}
    changes = {"track": "attribution", "condition": ""} | changes
    one = reading(metric="deletion_auc_zero", metric_version=version)
    return record(method, seed, readings=[one], notes=notes, **changes), {}


def rows_of(folder):
    with (folder / "curves.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_curve_is_the_mean_over_its_seeds_in_fixed_decimals(tmp_path):
    write(boards_of([explained(seed=0), explained(seed=1, curves=FLAT)]), tmp_path)
    common = {
        "suite_version": "1.0.0",
        "track": "attribution",
        "dataset": "digits",
        "subject": "cnn.digits.sgd",
        "condition": "",
        "method": "gradient",
        "variant": "default",
        "metric": "deletion_auc_zero",
        "n_seeds": "2",
    }
    assert rows_of(tmp_path) == [
        common | {"share": "0.0000", "value": "0.7500"},
        common | {"share": "0.5000", "value": "0.5500"},
        common | {"share": "1.0000", "value": "0.3500"},
    ]


def test_a_seed_without_a_curve_is_not_counted(tmp_path):
    write(boards_of([explained(seed=0), explained(seed=1, curves=None)]), tmp_path)
    assert [(row["value"], row["n_seeds"]) for row in rows_of(tmp_path)] == [
        ("0.9000", "1"),
        ("0.5000", "1"),
        ("0.1000", "1"),
    ]


def test_seeds_whose_curves_have_other_steps_give_none(tmp_path):
    made = [explained(seed=0), explained(seed=1, curves=[0.9, 0.1]), explained("lrp")]
    write(boards_of(made), tmp_path)
    assert [row["method"] for row in rows_of(tmp_path)] == ["lrp"] * 3


@pytest.mark.parametrize("absent", [None, float("nan")])
def test_a_point_that_a_seed_lacks_is_empty(tmp_path, absent):
    write(boards_of([explained(seed=0), explained(seed=1, curves=[0.9, absent, 0.1])]), tmp_path)
    assert [row["value"] for row in rows_of(tmp_path)] == ["0.9000", "", "0.1000"]


def test_a_curve_of_an_older_version_of_its_metric_is_left_out(tmp_path):
    write(boards_of([explained(seed=0, version=2), explained(seed=1, curves=[0.0, 1.0])]), tmp_path)
    assert [row["value"] for row in rows_of(tmp_path)] == ["0.9000", "0.5000", "0.1000"]


def test_the_same_metric_on_another_track_gives_no_second_curve(tmp_path):
    other, values = explained(track="detection", curves=None)
    write(boards_of([explained(), (other, values)]), tmp_path)
    assert len(rows_of(tmp_path)) == 3


def test_the_order_in_which_records_come_does_not_matter(tmp_path):
    made = [explained(method, seed) for method in ("gradient", "lrp") for seed in (0, 1)]
    for name, records in (("one", made), ("other", made[::-1])):
        write(boards_of(records), tmp_path / name)
    assert (tmp_path / "one" / "curves.csv").read_bytes() == (tmp_path / "other" / "curves.csv").read_bytes()
    assert [row["method"] for row in rows_of(tmp_path / "one")] == ["gradient"] * 3 + ["lrp"] * 3


def test_the_schema_explains_every_column(tmp_path):
    write(boards_of([explained()]), tmp_path)
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert list(schema["curves"]) == list(rows_of(tmp_path)[0])


def test_without_notes_there_is_no_file_and_an_old_one_goes(tmp_path):
    write(boards_of([explained()]), tmp_path)
    write(boards_of([explained(curves=None)]), tmp_path)
    assert not (tmp_path / "curves.csv").exists()
    assert "curves" not in json.loads((tmp_path / "schema.json").read_text())


def test_a_note_of_a_fault_is_no_row():
    faulty, values = explained()
    faulty = faulty.model_copy(update={"notes": {"curves": {}, "curves_error": "RuntimeError: no memory"}})
    assert boards_of([(faulty, values)]).curves is None


@pytest.mark.parametrize("method", ["gradient", "NA"])
def test_the_file_is_read_as_it_was_written(tmp_path, method):
    boards = boards_of([explained(method, curves=[0.25, 0.5, 0.125])], primary={"attribution": "deletion_auc_zero"})
    write(boards, tmp_path / "smoke")
    assert load_boards(tmp_path / "smoke").curves.equals(boards.curves)
