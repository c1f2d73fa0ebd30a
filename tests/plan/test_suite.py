"""Suite files: profiles over common values, and small helpers; what is refused stands in tests/test_cli.py."""

import re
from pathlib import Path
from typing import Any

import pytest

from bench.contract import Bound, SetupError
from bench.execute.runner import index_of
from bench.plan.suite import SubjectName, Suite, load_suite, split_attack, split_attacks, suite_names, suite_summary
from bench.record import board_name
from tests.execute import tiny


def load(folder: Path, profile: str = "cpu", changes: Any = None, **text: Any) -> Suite:
    return load_suite(str(tiny.write_suite(folder, **text)), profile, changes)


def test_a_profile_stands_over_the_common_values_and_joins_mappings(tmp_path: Path):
    profiles = {"cpu": None, "full": {"seeds": [0, 1, 2], "recipes": {"mlp": {"epochs": 9}}}}
    cpu, full = (load(tmp_path, profile, profiles=profiles) for profile in ("cpu", "full"))
    assert (cpu.seeds, full.seeds) == ([0], [0, 1, 2])
    assert (cpu.recipe_of("mlp").epochs, full.recipe_of("mlp").epochs) == (1, 9)
    assert full.recipe_of("cnn") == cpu.recipe_of("cnn")


def test_profiles_never_share_a_board(tmp_path: Path):
    profiles: dict[str, Any] = {"cpu": {}, "full": {}}
    boards = [load(tmp_path, profile, profiles=profiles).board for profile in profiles]
    assert boards == ["tiny", "tiny_full"] == [board_name("tiny", profile) for profile in profiles]


def test_changes_from_the_command_line_stand_over_the_profile(tmp_path: Path):
    profiles = {"cpu": {"folder": "here"}}
    assert load(tmp_path, profiles=profiles, changes={"folder": "there"}).folder == "there"


def test_a_track_is_one_block_or_several_and_a_method_a_name_or_more(tmp_path: Path):
    one = {"methods": ["noise_search"], "budget": 4}
    named = {"name": "pixel_ascent", "variant": "slow", "settings": {"step_size": 0.01}}
    suite = load(tmp_path, tracks={"inversion": [one, {**one, "methods": [named]}]})
    first, second = suite.tracks["inversion"]
    assert (first.methods[0].name, first.methods[0].variant) == ("noise_search", "default")
    assert second.methods[0].settings == {"step_size": 0.01}


@pytest.mark.parametrize(
    ("referee", "judges"),
    [
        (None, [None, None]),
        ("mlp.digits.adamw", ["mlp.digits.adamw", "mlp.digits.adamw"]),
        (
            {"default": "mlp.digits.adamw", "cnn.digits.sgd": "cnn.digits.adamw"},
            ["mlp.digits.adamw", "cnn.digits.adamw"],
        ),
        ({"cnn.digits.sgd": "cnn.digits.adamw"}, [None, "cnn.digits.adamw"]),
    ],
)
def test_each_subject_has_its_judge(tmp_path: Path, referee: Any, judges: list[str | None]):
    suite = load(tmp_path, referee=referee, subjects=["mlp.digits.sgd", "cnn.digits.sgd"])
    assert [suite.judge_of(subject) for subject in suite.subjects] == judges


def test_a_subject_names_network_data_training_and_variant():
    plain, varied = (SubjectName.parse(name) for name in ("cnn.digits.sgd", "cnn.digits.sgd.slow"))
    assert (plain.network, plain.dataset, plain.training, plain.variant) == ("cnn", "digits", "sgd", "default")
    assert varied.variant == "slow" and plain.is_trained_here
    assert not SubjectName.parse("resnet20.akamaster").is_trained_here


@pytest.mark.parametrize(
    ("condition", "attack", "bound"),
    [
        ("pgd_linf_8_255", "pgd", "linf_8_255"),
        ("fgsm_l2_1_2", "fgsm", "l2_1_2"),
        ("pgd_none", "pgd", "none"),
    ],
)
def test_a_detectors_condition_is_an_attack_and_its_bound(condition: str, attack: str, bound: str):
    assert split_attack(condition) == (attack, bound)
    assert Bound.parse(bound).size > 0


def test_a_detectors_condition_may_name_the_attack_that_it_learned_from():
    pgd, fgsm = ("pgd", "linf_8_255"), ("fgsm", "none")
    assert split_attacks("pgd_linf_8_255") == (pgd, pgd)
    assert split_attacks("fgsm_none_after_pgd_linf_8_255") == (fgsm, pgd)
    assert split_attacks("pgd_linf_8_255_after_fgsm_none") == (pgd, fgsm)
    assert split_attacks("pgd_linf_8_255_after_pgd_l2_1_2") == (pgd, ("pgd", "l2_1_2"))


def test_a_detectors_condition_that_names_one_attack_twice_is_refused():
    with pytest.raises(SetupError, match=r"names one attack twice\n  write pgd_none"):
        split_attacks("pgd_none_after_pgd_none")


@pytest.mark.parametrize(
    "condition",
    [
        *("pgd", "linf_8_255", "pgd_linf_8", "pgd_linf_8_0", ""),
        *("pgd_none_after_", "_after_pgd_none", "pgd_none_after_pgd", "pgd_none_after_fgsm_none_after_bim_none"),
        "pgd_none_after_pgdd_none",
    ],
)
def test_a_detectors_condition_without_attack_or_bound_is_refused(condition: str):
    with pytest.raises(SetupError):
        split_attacks(condition)


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_of_the_project_is_sound_in_every_profile_and_says_what_it_is(name: str):
    assert len(suite_summary(name)) > 20
    for profile in ("cpu", "full"):
        assert load_suite(name, profile).suite == name


def test_a_suite_may_rank_a_board_by_another_metric(tmp_path: Path):
    assert index_of(tiny.plan_of(tmp_path, primary={"inversion": "coverage"})).primary == {
        **index_of(tiny.plan_of(tmp_path)).primary,
        "inversion": "coverage",
    }


@pytest.mark.parametrize(
    ("primary", "complaint"),
    [
        ({"inversion": "covrage"}, "no metric named 'covrage'. Did you mean 'coverage'"),
        ({"inverison": "coverage"}, "no track of this suite named 'inverison'. Did you mean 'inversion'"),
    ],
)
def test_a_ranking_metric_or_track_that_is_mistyped_is_refused(tmp_path: Path, primary: dict[str, str], complaint: str):
    with pytest.raises(SetupError, match=re.escape(complaint)):
        load(tmp_path, primary=primary)


def test_a_bound_in_bytes_is_refused_with_the_way_to_write_it(tmp_path: Path):
    tracks = {"adversarial": {"methods": ["fgsm"], "conditions": ["linf_8_1"]}}
    with pytest.raises(SetupError, match=r"linf_8_1.*is 8.*\n.*linf_8_255"):
        load(tmp_path, tracks=tracks)
