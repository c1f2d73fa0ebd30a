"""Verdicts in a suite file: how they are written, what is refused, and what reaches the index."""

import re
from pathlib import Path
from typing import Any

import pytest

from bench.contract import SetupError
from bench.execute.runner import index_of
from bench.plan.suite import load_suite
from bench.record import Claim
from tests.execute import tiny

BUYS: dict[str, Any] = {
    "gains": {"pixels": ["same_class_rmse", "same_class_ssim"], "referee": "vendi_referee_cosine"},
    "guard": {"metric": "inversion_accuracy", "margin": -0.02},
}
TRACK = {"inversion": {"methods": ["noise_search", "pixel_ascent"], "images": 10, "budget": 20}}
PAIR = [{"method": "pixel_ascent"}, {"method": "noise_search"}]


def claim(rule: dict[str, Any], **changes: Any) -> dict[str, Any]:
    text = {"claim": "Climbing buys diversity.", "track": "inversion", "pairs": [PAIR], "verdict": rule}
    return {name: value for name, value in (text | changes).items() if value is not None}


def load(folder: Path, verdict: dict[str, Any], claims: dict[str, Any] | None = None, **changes: Any) -> Any:
    text = {"tracks": TRACK, "claims": [claim(verdict, **(claims or {}))]} | changes
    return load_suite(str(tiny.write_suite(folder, **text)))


def gains(*metrics: Any, **changes: Any) -> dict[str, Any]:
    return BUYS | {"gains": {"pixels": list(metrics)}} | changes


def test_a_verdict_reaches_the_index_with_its_defaults_and_no_key(tmp_path: Path):
    directed = {"metric": "vendi_ratio", "better": "higher"}
    rule = BUYS | {"gains": BUYS["gains"] | {"referee": directed}}
    plan = tiny.plan_of(tmp_path, tracks=TRACK, claims=[claim(rule)])
    (found,) = index_of(plan).claims
    assert found.metrics == ("same_class_rmse", "same_class_ssim", "vendi_ratio", "inversion_accuracy")
    assert found.verdict is not None
    assert found.verdict.model_dump() == {
        "gains": {
            "pixels": (
                {"metric": "same_class_rmse", "better": None},
                {"metric": "same_class_ssim", "better": None},
            ),
            "referee": (directed,),
        },
        "guard": {"metric": "inversion_accuracy", "margin": -0.02},
        "across": 3,
    }
    ((of, against),) = found.pairs
    assert (of.dataset, of.method, against.method) == ("digits", "pixel_ascent", "noise_search")
    assert Claim.model_validate_json(found.model_dump_json()) == found
    plain = tiny.plan_of(tmp_path, tracks=TRACK)
    assert [cell.key for cell in plan.cells] == [cell.key for cell in plain.cells]


def test_a_claim_without_verdict_has_none_in_the_index(tmp_path: Path):
    text = claim(BUYS, verdict=None, metric="same_class_rmse")
    assert index_of(tiny.plan_of(tmp_path, tracks=TRACK, claims=[text])).claims[0].verdict is None


ONE = "claim 'Climbing buys diversity.'"


@pytest.mark.parametrize(
    ("verdict", "complaint"),
    [
        (gains("same_clas_rmse"), "no metric named 'same_clas_rmse'. Did you mean 'same_class_rmse'"),
        (
            BUYS | {"guard": {"metric": "inversion_accurcy", "margin": -0.02}},
            "no metric named 'inversion_accurcy'. Did you mean 'inversion_accuracy'",
        ),
        (gains("same_class_rmse", "same_class_rmse"), f"{ONE}: its verdict names same_class_rmse twice"),
        (gains("inversion_accuracy"), f"{ONE}: its verdict names inversion_accuracy twice"),
        (gains(), "claims.0.verdict.gains.pixels: List should have at least 1 item"),
        (BUYS | {"gains": {}}, "claims.0.verdict.gains: Dictionary should have at least 1 item"),
        (BUYS | {"gains": {"two\nlines": ["same_class_rmse"]}}, "String should match pattern"),
        (gains({"metric": "vendi_ratio", "better": "more"}), "Input should be 'higher' or 'lower', got 'more'"),
        (gains({"metric": "vendi_ratio", "beter": "higher"}), "no key named 'beter'. Did you mean 'better'"),
        ({"gains": BUYS["gains"]}, "claims.0.verdict.guard: Field required"),
        (BUYS | {"guard": {"metric": "inversion_accuracy"}}, "claims.0.verdict.guard.margin: Field required"),
        (BUYS | {"guard": {"metric": "inversion_accuracy", "margin": 0.02}}, "should be less than or equal to 0"),
        (
            BUYS | {"guard": {"metric": "inversion_accuracy", "margin": float("-inf")}},
            "margin: Input should be a finite number",
        ),
        (BUYS | {"across": 1}, "claims.0.verdict.across: Input should be greater than or equal to 2"),
        (
            {"gains": BUYS["gains"], "gaurd": BUYS["guard"]},
            "claims.0.verdict.gaurd: no key named 'gaurd'. Did you mean 'guard'?\n  there are: gains, guard, across",
        ),
        (gains({"metrc": "same_class_rmse"}), "gains.pixels.0.metrc: no key named 'metrc'. Did you mean 'metric'"),
        (BUYS | {"guard": "inversion_accuracy"}, "guard: Input should be a mapping, got 'inversion_accuracy'"),
        (BUYS | {"acros": 3}, "no key named 'acros'. Did you mean 'across'"),
    ],
)
def test_a_wrong_rule_is_refused_before_anything_runs(tmp_path: Path, verdict: dict[str, Any], complaint: str):
    with pytest.raises(SetupError, match=re.escape(complaint)):
        load(tmp_path, verdict)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"verdict": None}, f"{ONE} names no metric\n  name one, or a verdict"),
        ({"metric": "same_class_rmse"}, f"{ONE} has a verdict: it takes no metric, margin or control beside it"),
        ({"margin": 0.1}, f"{ONE} has a verdict: it takes no metric, margin or control beside it"),
        ({"control": "noise_search"}, f"{ONE} has a verdict: it takes no metric, margin or control beside it"),
        ({"pairs": [[{"method": "pixel_ascend"}, {"method": "noise_search"}]]}, "Did you mean 'pixel_ascent'"),
        (
            {"pairs": [PAIR, PAIR[::-1]]},
            f"{ONE}: its verdict compares 2 pairs of rows on digits, it takes one\n  name subject",
        ),
    ],
)
def test_a_claim_that_its_verdict_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str):
    with pytest.raises(SetupError, match=re.escape(complaint)):
        load(tmp_path, BUYS, changes)


def test_two_subjects_are_two_pairs_until_one_is_chosen(tmp_path: Path):
    both = {"subjects": ["mlp.digits.sgd", "cnn.digits.sgd"]}
    with pytest.raises(SetupError, match="its verdict compares 2 pairs of rows on digits"):
        load(tmp_path, BUYS, **both)
    suite = load(tmp_path, BUYS, {"subjects": "cnn.digits.sgd"}, **both)
    assert [of.subject for of, _ in suite.claims[0].compared(suite.rows("inversion"))] == ["cnn.digits.sgd"]


def test_two_verdicts_on_one_claim_are_refused_since_boards_could_not_tell_them(tmp_path: Path):
    claims = [claim(BUYS), claim(BUYS, pairs=[PAIR[::-1]])]
    with pytest.raises(SetupError, match=f"2 verdicts are on the {ONE}"):
        load_suite(str(tiny.write_suite(tmp_path, tracks=TRACK, claims=claims)))


def test_a_metric_that_no_block_measures_is_refused(tmp_path: Path):
    tracks = {"inversion": TRACK["inversion"] | {"metrics": ["same_class_rmse", "inversion_accuracy"]}}
    with pytest.raises(SetupError, match="no metric of the inversion track of this suite named 'same_class_ssim'"):
        load(tmp_path, BUYS, tracks=tracks)


@pytest.mark.parametrize(
    ("verdict", "complaint"),
    [
        (gains("psnr"), "metric psnr does not belong to the inversion track"),
        (
            gains("vendi_ratio"),
            "metric vendi_ratio has no better direction\n"
            "  name another one, or as a gain of a verdict {metric: vendi_ratio, better: higher}",
        ),
        (
            BUYS | {"guard": {"metric": "vendi_ratio", "margin": 0}},
            "metric vendi_ratio has no better direction",
        ),
    ],
)
def test_a_metric_that_cannot_answer_is_refused_by_the_plan(tmp_path: Path, verdict: dict[str, Any], complaint: str):
    with pytest.raises(SetupError, match=re.escape(complaint)):
        tiny.plan_of(tmp_path, tracks=TRACK, claims=[claim(verdict)])
