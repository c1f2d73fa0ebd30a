"""A suite on several data sets: what stands over what, which cells come of it, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.contract import SetupError
from bench.execute.runner import index_of
from bench.plan.cells import Plan, make_plan
from bench.plan.claims import Row
from bench.plan.estimate import bytes_of, seconds_of
from bench.plan.suite import AnySuite, Suite, load_suite
from tests.execute import tiny

TRACKS = {"attribution": {"methods": ["gradient", "random_map"], "images": 10, "budget": 10}}


def load(folder: Path, profile: str = "cpu", changes: Any = None, **text: Any) -> AnySuite:
    """The tiny suite with these changes; None leaves a key out."""
    left = {key: value for key, value in {**tiny.SUITE, "dataset": None, **text}.items() if value is not None}
    return load_suite(str(tiny.write_yaml(folder / "tiny.yaml", left)), profile, changes)


def on_two(folder: Path, **text: Any) -> AnySuite:
    """On digits and MNIST, loaded but not planned: nothing is opened."""
    datasets = {name: {"subjects": [f"mlp.{name}.sgd"]} for name in ("digits", "mnist")}
    return load(folder, **{"datasets": datasets, "subjects": None, "referee": None, "tracks": TRACKS, **text})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joint")


@pytest.fixture(scope="module")
def text(folder: Path) -> dict[str, Any]:
    return tiny.on_two_data_sets(folder)


@pytest.fixture(scope="module")
def plan(folder: Path, text: dict[str, Any]) -> Plan:
    return tiny.plan_of(folder, text)


# ---- what stands over what -----------------------------------------------------------------------------------------


def test_common_values_then_the_profiles_then_the_data_sets_then_the_profiles_of_the_data_set(tmp_path: Path):
    """Each of four fields is said once more than the one before it, by what should stand over all others."""
    recipes = [{"default": {"epochs": epochs}} for epochs in (1, 2, 3, 4)]
    digits = {"subjects": ["mlp.digits.sgd"], "recipes": recipes[2], "real_images": 30, "batch_size": 30}
    full = {"recipes": recipes[1], "real_images": 20, "batch_size": 20, "timeout_s": 20}
    own = {"digits": {"recipes": recipes[3]}}
    suite = load(
        tmp_path,
        "full",
        subjects=None,
        referee=None,
        tracks=TRACKS,
        recipes=recipes[0],
        timeout_s=10,
        datasets={"digits": digits, "mnist": {"subjects": ["mlp.mnist.sgd"]}},
        profiles={"cpu": {}, "full": {**full, "datasets": own}},
    )
    on_digits, on_mnist = suite.parts
    assert (on_digits.recipe_of("mlp").epochs, on_digits.real_images, on_digits.timeout_s) == (4, 30, 20)
    assert (on_mnist.recipe_of("mlp").epochs, on_mnist.real_images, on_mnist.timeout_s) == (2, 20, 20)
    assert on_digits.batch_size == 30


def test_what_a_data_set_says_is_joined_to_mappings_and_replaces_all_else(tmp_path: Path):
    attribution = {"attribution": {"methods": ["gradient"], "budget": 4}}
    digits = {"subjects": ["mlp.digits.sgd"], "tracks": attribution, "recipes": {"default": {"epochs": 5}}}
    on_digits, on_mnist = on_two(tmp_path, datasets={"digits": digits, "mnist": None}, subjects=[]).parts
    (block,) = on_digits.tracks["attribution"]
    assert ([method.name for method in block.methods], block.images, block.budget) == (["gradient"], 10, 4)
    assert (on_digits.recipe_of("cnn").epochs, on_digits.recipe_of("cnn").batch_size) == (5, 32)
    assert len(on_mnist.tracks["attribution"][0].methods) == 2 and on_mnist.subjects == []


def test_changes_from_the_command_line_stand_over_a_data_set(tmp_path: Path):
    suite = on_two(tmp_path, changes={"timeout_s": 7}, datasets={"digits": {"timeout_s": 5}}, subjects=[])
    assert [part.timeout_s for part in suite.parts] == [7]


def test_a_suite_on_one_data_set_is_its_own_only_part(tmp_path: Path):
    suite = load(tmp_path, dataset="digits")
    assert isinstance(suite, Suite) and suite.parts == (suite,)


def test_data_sets_share_the_board_and_profiles_do_not(tmp_path: Path):
    profiles: dict[str, Any] = {"cpu": {}, "full": {}}
    boards = [on_two(tmp_path, profile=profile, profiles=profiles).board for profile in profiles]
    assert boards == ["tiny", "tiny_full"]


def test_a_track_of_one_data_set_alone_is_a_track_of_the_suite(tmp_path: Path):
    inversion = {"inversion": {"methods": ["noise_search"]}}
    digits = {"subjects": ["mlp.digits.sgd"], "tracks": inversion}
    suite = on_two(
        tmp_path,
        datasets={"mnist": {"subjects": ["mlp.mnist.sgd"]}, "digits": digits},
        primary={"inversion": "coverage"},
        notes={"inversion": "On digits."},
    )
    assert suite.track_names == ["attribution", "inversion"]
    assert suite.rows("inversion") == [Row("digits", "mlp.digits.sgd", "", "noise_search", "default")]


# ---- claims --------------------------------------------------------------------------------------------------------


def test_rows_of_two_data_sets_are_never_compared_with_each_other(tmp_path: Path):
    """A network of the training track has the same name on both."""
    tracks = {"training": {"subjects": ["mlp"], "methods": ["sgd", "adamw"]}}
    better = {
        "claim": "It is.",
        "track": "training",
        "metric": "top1",
        "pairs": [[{"method": "adamw"}, {"method": "sgd"}]],
    }
    suite = on_two(tmp_path, tracks=tracks, claims=[better, {**better, "datasets": "mnist"}])
    pairs = [claim.compared(suite.rows("training")) for claim in suite.claims]
    assert [[(of.dataset, against.dataset) for of, against in found] for found in pairs] == [
        [("digits", "digits"), ("mnist", "mnist")],
        [("mnist", "mnist")],
    ]
    assert {(of.method, against.method) for found in pairs for of, against in found} == {("adamw", "sgd")}


def test_a_pair_of_subjects_of_two_data_sets_compares_nothing(tmp_path: Path):
    sides = [{"subject": "mlp.digits.sgd"}, {"subject": "mlp.mnist.sgd"}]
    claim = {"claim": "It is.", "track": "attribution", "metric": "insertion_auc", "pairs": [sides]}
    with pytest.raises(SetupError, match="its pair 1 compares nothing"):
        on_two(tmp_path, claims=[claim])


# ---- cells ---------------------------------------------------------------------------------------------------------


def test_each_data_set_has_its_own_seeds_subjects_and_referee(plan: Plan):
    found = {(cell.dataset, cell.subject, cell.judge, cell.seed) for cell in plan.wanted if cell.track == "inversion"}
    assert found == {
        ("digits", "mlp.digits.sgd", "mlp.digits.adamw", 0),
        ("digits", "mlp.digits.sgd", "mlp.digits.adamw", 1),
        ("imagefolder", "mlp.imagefolder.sgd", "mlp.imagefolder.adamw", 7),
    }


def test_the_cells_are_those_of_one_suite_for_each_data_set(plan: Plan, text: dict[str, Any], folder: Path):
    keys = []
    for name, own in text["datasets"].items():
        alone = {key: value for key, value in text.items() if key not in ("datasets", "claims")} | {"dataset": name}
        recipes = {"default": {**text["recipes"]["default"], **own.get("recipes", {}).get("default", {})}}
        keys += [cell.key for cell in tiny.plan_of(folder, alone | own | {"recipes": recipes, "suite": "alone"}).cells]
    assert [cell.key for cell in plan.cells] == keys
    assert len(set(keys)) == len(keys)


def test_needs_stand_before_what_needs_them(plan: Plan):
    keys = [cell.key for cell in plan.cells]
    for place, cell in enumerate(plan.cells):
        assert set(cell.needs) <= set(keys[:place])


def test_the_index_names_every_data_set_and_the_rows_of_each_claim(plan: Plan):
    index = index_of(plan)
    assert index.notes["dataset"] == "digits, imagefolder"
    assert {cell.identity.dataset for cell in index.cells} == {"digits", "imagefolder"}
    for claim in index.claims:
        assert [(of.dataset, against.dataset) for of, against in claim.pairs] == [
            ("digits", "digits"),
            ("imagefolder", "imagefolder"),
        ]


def test_cells_of_two_data_sets_are_told_apart_by_name(plan: Plan):
    names = [str(cell) for cell in plan.cells]
    assert len(set(names)) == len(names)
    assert "training · imagefolder · mlp · sgd · seed 7" in names


def test_time_and_room_are_those_of_the_cells_own_images(plan: Plan):
    cells = {cell.dataset: cell for cell in plan.cells if cell.track == "inversion"}
    seconds = seconds_of(plan, None, torch.device("cpu"))
    assert all(seconds[cell.key] > 0 for cell in cells.values())
    room = {name: bytes_of(cell, plan) for name, cell in cells.items()}
    assert room["imagefolder"] - room["digits"] == 8 * 4 * (3 * 64 * 64 - 28 * 28), "8 images of float32 each"
    assert plan.data["imagefolder"].num_classes == 2 and plan.data["digits"].num_classes == 10


# ---- what is refused -----------------------------------------------------------------------------------------------

NO_SUBJECT: dict[str, Any] = {"subjects": []}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"dataset": "digits"}, "tiny.yaml should name its dataset, or several datasets; it names both"),
        ({"datasets": None}, "tiny.yaml should name its dataset, or several datasets; it names neither"),
        ({"datasets": {}}, "tiny.yaml: datasets should be a mapping\n  datasets: {NAME: what differs there"),
        ({"datasets": ["digits", "mnist"]}, "tiny.yaml: datasets should be a mapping"),
        ({"datasets": {"digits": 3}}, "tiny.yaml: datasets.digits should be a mapping, got 3"),
        ({"datasets": {"digit": NO_SUBJECT}}, "no data set named 'digit'. Did you mean 'digits'"),
        ({"datasets": {"mnist": {"sedes": [1]}}}, "datasets.mnist.sedes: no key named 'sedes'. Did you mean 'seeds'"),
        (
            {"datasets": {"mnist": {"subject": ["mlp.mnist.sgd"]}}},
            "datasets.mnist.subject: no key named 'subject'. Did you mean 'subjects'?\n  there are: folder, seeds, ",
        ),
        ({"datasets": {3: {}}}, "tiny.yaml: datasets.3: as a name: Input should be a valid string, got 3"),
        ({"datasets": {"mnist": {"seeds": []}}}, "tiny.yaml: datasets.mnist.seeds: List should have at least 1 item"),
        ({"datasets": {"mnist": {"version": "2.0.0"}}}, "datasets.mnist.version is the same on all data sets"),
        ({"datasets": {"mnist": {"threads": 2}}}, "tiny.yaml: datasets.mnist.threads is the same on all data sets"),
        ({"datasets": {"mnist": {"claims": []}}}, "tiny.yaml: datasets.mnist.claims is the same on all data sets"),
        ({"datasets": {"mnist": {"dataset": "svhn"}}}, "datasets.mnist.dataset is the same on all data sets"),
        (
            {"datasets": {"digits": NO_SUBJECT, "mnist": {"subjects": ["mlp.digits.sgd"]}}},
            "on mnist: subject mlp.digits.sgd was trained on digits, the suite is on mnist",
        ),
        (
            {"datasets": {"digits": NO_SUBJECT, "mnist": {"subjects": [], "referee": "mlp.digits.sgd"}}},
            "subject mlp.digits.sgd was trained on digits, the suite is on mnist",
        ),
        ({"gates": {"mlp.digits.sgd": 0.9}}, "on mnist: no subject with a gate named 'mlp.digits.sgd'"),
        ({"notes": {"inversion": "None."}}, "no track of this suite named 'inversion'"),
        ({"seeds": [1, 1]}, "suite tiny names a seed twice: [1, 1]"),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str):
    with pytest.raises(SetupError, match=re.escape(complaint)):
        on_two(tmp_path, **changes)


def test_a_suite_on_several_data_sets_is_not_run_on_another_one(tmp_path: Path):
    on_two(tmp_path)
    with pytest.raises(
        SetupError, match=r"tiny\.yaml holds several data sets.*\n  leave --dataset out; --only 'NAME/\*'"
    ):
        load_suite(str(tmp_path / "tiny.yaml"), dataset="svhn")


def test_too_few_images_are_told_with_the_key_that_asks_for_them(tmp_path: Path):
    tracks = {"adversarial": {"conditions": ["none"], "methods": ["inversion_lookalikes"], "images": 8}}
    suite = tiny.on_two_data_sets(tmp_path, tracks=tracks, claims=[])
    with pytest.raises(SetupError, match="references of the adversarial track: imagefolder train has 56 images, 200"):
        tiny.plan_of(tmp_path, suite)


def test_real_images_that_are_not_left_beside_the_judges_are_told_before_anything_runs(tmp_path: Path):
    """Of the pictures 16 are for tests, 8 a class, and 8 judge: four a class are left."""
    suite = tiny.on_two_data_sets(tmp_path, claims=[])
    own = suite["datasets"]["imagefolder"]
    own["tracks"] = {"inversion": {"methods": ["pixel_ascent", "real_images"], "images": 8}}
    tiny.plan_of(tmp_path, suite)
    own["tracks"]["inversion"]["images"] = 9
    with pytest.raises(SetupError, match=r"9 real images beside the 8 that judge are not there\n.* 16 test"):
        tiny.plan_of(tmp_path, suite)


def test_missing_data_of_one_data_set_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    with pytest.raises(SetupError, match="GLASSBENCH_DATA"):
        make_plan(on_two(tmp_path), None)
