"""Claims and notes in a suite file: which rows they compare, and which names are refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from bench.contract import SetupError
from bench.execute.runner import index_of
from bench.plan.claims import ClaimSpec, Row
from bench.plan.suite import Suite, load_suite
from tests.execute import tiny

MLP, CNN = "mlp.digits.sgd", "cnn.digits.sgd"
TRACKS: dict[str, Any] = {
    "training": {"subjects": ["mlp", "cnn"], "methods": ["sgd", "adamw"]},
    "attribution": [
        {"methods": ["gradient", "random_map"], "images": 10, "budget": 10},
        {"methods": [{"name": "smooth_grad", "variant": "few", "settings": {"samples": 2}}], "subjects": [MLP]},
    ],
    "adversarial": {"conditions": ["linf_8_255", "l2_1_2"], "methods": ["fgsm", "pgd"], "metrics": ["success_rate"]},
}


def load(folder: Path, *claims: dict[str, Any], **changes: Any) -> Suite:
    text = {"subjects": [MLP, CNN], "tracks": TRACKS, "claims": list(claims)} | changes
    return load_suite(str(tiny.write_suite(folder, **text)))


def claim(*pairs: Any, **changes: Any) -> dict[str, Any]:
    found = [list(pair) for pair in pairs] or [[{"method": "adamw"}, {"method": "sgd"}]]
    return {"claim": "One is better.", "track": "training", "metric": "top1", "pairs": found} | changes


def attributions(*pairs: Any, **changes: Any) -> dict[str, Any]:
    found = pairs or (({"subject": MLP}, {"subject": CNN}),)
    return claim(*found, track="attribution", metric="insertion_auc", **changes)


def row(subject: str, condition: str, method: str, variant: str) -> Row:
    return Row("digits", subject, condition, method, variant)


def compared(folder: Path, text: dict[str, Any]) -> list[tuple[Row, Row]]:
    suite = load(folder, text)
    return suite.claims[0].compared(suite.rows(text["track"]))


# ---- which rows are compared ---------------------------------------------------------------------------------------


def test_what_a_pair_leaves_open_is_equal_on_both_sides(tmp_path: Path):
    assert compared(tmp_path, claim()) == [
        (row(network, "", "adamw", "default"), row(network, "", "sgd", "default")) for network in ("mlp", "cnn")
    ]


def test_conditions_and_methods_are_crossed(tmp_path: Path):
    text = claim(({"subject": MLP}, {"subject": CNN}), track="adversarial", metric="success_rate")
    rows = [(bound, attack) for bound in ("linf_8_255", "l2_1_2") for attack in ("fgsm", "pgd")]
    assert compared(tmp_path, text) == [
        (row(MLP, bound, attack, "default"), row(CNN, bound, attack, "default")) for bound, attack in rows
    ]


def test_rows_that_stand_on_one_side_alone_are_not_compared(tmp_path: Path):
    """smooth_grad is run on the mlp only."""
    assert [of.method for of, _ in compared(tmp_path, attributions())] == ["gradient", "random_map"]


def test_sides_may_name_several_things_and_what_one_names_holds_for_both(tmp_path: Path):
    few = {"method": "smooth_grad", "variant": "few"}
    text = attributions((few, {"method": "gradient", "variant": "default"}))
    assert compared(tmp_path, text) == [(row(MLP, "", "smooth_grad", "few"), row(MLP, "", "gradient", "default"))]
    text = attributions(({"method": "gradient"}, {"subject": CNN, "method": "random_map"}))
    assert compared(tmp_path, text) == [(row(CNN, "", "gradient", "default"), row(CNN, "", "random_map", "default"))]


def test_filters_leave_rows_out(tmp_path: Path):
    assert [of.method for of, _ in compared(tmp_path, attributions(methods="gradient"))] == ["gradient"]
    both = claim(({"method": "pgd"}, {"method": "fgsm"}), track="adversarial", metric="success_rate")
    chosen = both | {"subjects": [CNN], "conditions": ["l2_1_2"], "variants": ["default"]}
    assert len(compared(tmp_path, both)) == 4
    assert compared(tmp_path, chosen) == [(row(CNN, "l2_1_2", "pgd", "default"), row(CNN, "l2_1_2", "fgsm", "default"))]


def test_the_control_is_not_compared_with_itself(tmp_path: Path):
    assert [of.method for of, _ in compared(tmp_path, attributions(control="random_map"))] == ["gradient"]


def test_a_pair_that_stands_twice_is_compared_once(tmp_path: Path):
    pair = ({"method": "adamw"}, {"method": "sgd"})
    assert len(compared(tmp_path, claim(pair, pair))) == 2


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (claim(track="trainng"), "no track of this suite named 'trainng'. Did you mean 'training'"),
        (claim(track="inversion"), "no track of this suite named 'inversion'"),
        (claim(metric="top11"), "no metric named 'top11'. Did you mean 'top1'"),
        (claim(metric=["top1", "nlll"]), "no metric named 'nlll'. Did you mean 'nll'"),
        (
            claim(({"method": "adamx"}, {"method": "sgd"})),
            "no method of the training track of this suite named 'adamx'. Did you mean 'adamw'",
        ),
        (
            claim(({"method": "adamw"}, {"method": "lamb"})),
            "no method of the training track of this suite named 'lamb'",
        ),
        (
            attributions(({"subject": MLP}, {"subject": "cnn.digits.sdg"})),
            "no subject of the attribution track of this suite named 'cnn.digits.sdg'. Did you mean 'cnn.digits.sgd'",
        ),
        (
            attributions(({"variant": "fex"}, {"variant": "default"})),
            "no variant of the attribution track of this suite named 'fex'. Did you mean 'few'",
        ),
        (
            attributions(({"condition": "layer"}, {"subject": CNN})),
            "no condition of the attribution track of this suite named 'layer'",
        ),
        (attributions(methods=["gradiant"]), "named 'gradiant'. Did you mean 'gradient'"),
        (attributions(subjects=["mlp.digits.sg"]), "named 'mlp.digits.sg'. Did you mean 'mlp.digits.sgd'"),
        (attributions(variants=["defualt"]), "named 'defualt'. Did you mean 'default'"),
        (attributions(control="rondom_map"), "named 'rondom_map'. Did you mean 'random_map'"),
        (
            attributions(({"method": "gradient"}, {"method": "random_map"}), control="smooth_grad"),
            "claim 'One is better.': its control smooth_grad is not run on mlp.digits.sgd\n  add it to the attribution",
        ),
        (
            claim(({"method": "adamw"}, {"method": "sgd"}), ({"subject": "mlp"}, {"subject": "mlp"})),
            "claim 'One is better.': its pair 2 compares nothing",
        ),
        (attributions(methods=["smooth_grad"]), "its pair 1 compares nothing\n  what a side does not name is equal"),
        (
            claim(({"subject": MLP}, {"subject": CNN}), track="adversarial", metric="l2_size"),
            "no metric of the adversarial track of this suite named 'l2_size'",
        ),
        (claim(margn=0.1), "claims.0.margn: no key named 'margn'. Did you mean 'margin'?\n  there are: claim, "),
        (
            claim(({"dataset": "digits"}, {})),
            "pairs.0.0.dataset: no key named 'dataset'.\n  there are: subject, condition, method, variant",
        ),
        (claim(({"metod": "sgd"}, {})), "claims.0.pairs.0.0.metod: no key named 'metod'. Did you mean 'method'"),
        (claim(margin="some"), "claims.0.margin: Input should be a valid number"),
        (claim(margin=float("nan")), "claims.0.margin: Input should be a finite number"),
        (claim(metric=[]), "claims.0.metric: List should have at least 1 item"),
        (claim(pairs=[]), "claims.0.pairs: List should have at least 1 item"),
        (claim(({"method": "sgd"},)), "claims.0.pairs.0"),
        (claim(claim=" "), "claims.0.claim"),
    ],
)
def test_a_wrong_claim_is_refused_before_anything_runs(tmp_path: Path, text: dict[str, Any], complaint: str):
    with pytest.raises(SetupError, match=re.escape(complaint)):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("metric", "complaint"),
    [
        ("psnr", "claim 'One is better.': metric psnr does not belong to the training track\n  leave it out"),
        ("orthogonality_residual", "metric orthogonality_residual has no better direction"),
    ],
)
def test_a_metric_that_cannot_answer_is_refused_by_the_plan(tmp_path: Path, metric: str, complaint: str):
    tracks = {"training": {"subjects": ["mlp"], "methods": ["sgd", "adamw"]}}
    with pytest.raises(SetupError, match=re.escape(complaint)):
        tiny.plan_of(tmp_path, tracks=tracks, claims=[claim(metric=metric)])


def test_notes_of_a_track_that_the_suite_has_not_are_refused(tmp_path: Path):
    with pytest.raises(SetupError, match=r"no track of this suite named 'trainng'\. Did you mean 'training'"):
        load(tmp_path, notes={"trainng": ["a line"]})


# ---- the index -----------------------------------------------------------------------------------------------------


def test_claims_and_notes_reach_the_index_and_no_key(tmp_path: Path):
    plain = tiny.plan_of(tmp_path)
    text = attributions(
        ({"method": "gradient"}, {"method": "random_map"}),
        claim="Gradients say\n  more than noise.",
        source="Somebody 2023",
        margin=-0.5,
    )
    asking = tiny.plan_of(tmp_path, claims=[text], notes={"training": "One line.", "inversion": ["Two", "lines."]})
    assert [cell.key for cell in asking.cells] == [cell.key for cell in plain.cells]
    index = index_of(asking)
    assert index.track_notes == {"training": ("One line.",), "inversion": ("Two", "lines.")}
    (found,) = index.claims
    assert (found.claim, found.source) == ("Gradients say more than noise.", "Somebody 2023")
    assert (found.track, found.metrics, found.margin, found.control) == ("attribution", ("insertion_auc",), -0.5, None)
    ((of, against),) = found.pairs
    assert (of.subject, of.condition, of.method, of.variant) == (MLP, "", "gradient", "default")
    assert against.method == "random_map"
    assert (index_of(plain).claims, index_of(plain).track_notes) == ((), {})


def test_a_suite_on_other_data_asks_about_its_own_subjects(tmp_path: Path):
    gradient = {"tracks": {"attribution": {"methods": ["gradient"]}}, "subjects": [MLP, CNN]}
    path = tiny.write_suite(tmp_path, **gradient, claims=[attributions()])
    suite = load_suite(str(path), dataset="mnist")
    pairs = [side.subject for pair in suite.claims[0].pairs for side in pair]
    assert pairs == ["mlp.mnist.sgd", "cnn.mnist.sgd"]


def test_every_row_of_a_claim_is_a_planned_cell(tmp_path: Path):
    """The index names rows in the words of its cells, or they would never be found."""
    index = index_of(tiny.plan_of(tmp_path, claims=[claim(({"method": "pgd"}, {"method": "fgsm"}), **ADVERSARIAL)]))
    cells = {
        (who.dataset, who.subject, who.condition, who.method, who.variant)
        for who in (cell.identity for cell in index.cells if cell.identity.track == "adversarial")
    }
    named = {tuple(side.model_dump().values()) for found in index.claims for pair in found.pairs for side in pair}
    assert len(named) == 2 and named <= cells


ADVERSARIAL = {"track": "adversarial", "metric": "success_rate"}


def test_a_claim_is_read_without_a_suite():
    spec = ClaimSpec.model_validate(claim())
    rows = [row("mlp", "", method, "default") for method in ("sgd", "adamw")]
    assert spec.compared(rows) == [(rows[1], rows[0])]
