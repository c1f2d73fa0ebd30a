"""The panel: networks that judge beside the referee."""

import re
from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.contract import SetupError
from bench.plan.cells import Cell, Plan
from bench.plan.suite import load_suite
from tests.execute import tiny

SGD, ADAMW, CNN = "mlp.digits.sgd", "mlp.digits.adamw", "cnn.digits.sgd"
SUBJECTS = [SGD, CNN]
LOOK = {"conditions": ["class"], "methods": ["pixel_ascent"], "images": 10, "budget": 20}
ATTACK = {"conditions": ["linf_51_255"], "methods": ["fgsm"], "images": 10, "budget": 20}


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)


def plan_with(folder: Path, **changes: Any) -> Plan:
    return tiny.plan_of(folder, tracks={"visualization": LOOK, "adversarial": ATTACK}, **changes)


def cells_of(plan: Plan, track: str) -> list[Cell]:
    return [cell for cell in plan.wanted if cell.track == track]


@pytest.mark.parametrize(
    ("panel", "found"),
    [
        ([], [(), ()]),
        ([ADAMW], [(ADAMW,), (ADAMW,)]),
        ([CNN, ADAMW, SGD], [(CNN, ADAMW), (ADAMW, SGD)]),
        ({SGD: [CNN]}, [(CNN,), ()]),
        ({SGD: [CNN], "default": [CNN, ADAMW]}, [(CNN,), (ADAMW,)]),
    ],
)
def test_each_subject_has_its_panel_and_is_never_on_it(tmp_path: Path, panel: Any, found: list[tuple[str, ...]]):
    suite = load_suite(str(tiny.write_suite(tmp_path, panel=panel, subjects=SUBJECTS)))
    assert [suite.panel_of(subject) for subject in SUBJECTS] == found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"panel": [ADAMW, ADAMW]}, "names a judge of a panel twice"),
        ({"panel": {SGD: [ADAMW, SGD]}}, f"{SGD} would judge itself"),
        ({"panel": {"mlp.digits.sgdd": [ADAMW]}}, f"named 'mlp.digits.sgdd'. Did you mean '{SGD}'"),
        ({"panel": ["mlp.digits.adamx"]}, "no method named 'training/adamx'. Did you mean 'training/adamw'"),
        ({"panel": ["cnn.mnist.sgd"]}, "cnn.mnist.sgd was trained on mnist, the suite is on digits"),
        ({"panel": [ADAMW], "gates": {"mlp.digits.adam": 0.5}}, f"Did you mean '{ADAMW}'"),
        ({"panel": ADAMW}, "tiny.yaml: panel: Input should be a valid list"),
    ],
)  # fmt: skip
def test_a_panel_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], said: str):
    with pytest.raises(SetupError, match=re.escape(said)):
        load_suite(str(tiny.write_suite(tmp_path, **changes)))


@pytest.mark.parametrize("changes", [{"panel": ["resnet20.akamaster"]}, {"referee": "resnet20.akamaster"}])
def test_a_judge_that_takes_other_images_than_the_subject_is_refused_before_the_run(tmp_path: Path, changes: Any):
    said = (
        r"resnet20\.akamaster cannot judge mlp\.digits\.sgd: it takes images of shape \(3, 32, 32\), not \(1, 28, 28\)"
    )
    with pytest.raises(SetupError, match=said):
        plan_with(tmp_path, **changes)


def test_its_networks_are_trained_with_the_referees_seed_before_the_cells_that_they_judge(tmp_path: Path):
    plan = plan_with(tmp_path, seeds=[0, 1], panel=[ADAMW, CNN], gates={CNN: 0.25})
    keys = [cell.key for cell in plan.cells]
    training = {cell.key: cell for cell in plan.cells if cell.track == "training"}
    looks = cells_of(plan, "visualization")
    assert len(looks) == 2
    for cell in looks:
        assert cell.panel == (ADAMW, CNN)
        assert cell.panel_gates == (None, 0.25)
        made = [training[key] for key in cell.panel_keys if key is not None]
        assert [(one.subject, one.method, one.seed) for one in made] == [("mlp", "adamw", 1000), ("cnn", "sgd", 1000)]
        assert set(cell.panel_keys) < set(cell.needs)
        assert set(cell.needs) <= set(keys[: keys.index(cell.key)])


def test_a_track_that_no_panel_judges_does_not_wait_for_it(tmp_path: Path):
    (attack,) = cells_of(plan_with(tmp_path, panel=[ADAMW]), "adversarial")
    assert (attack.panel, attack.panel_keys, attack.panel_gates) == ((), (), ())


def test_a_panel_changes_no_key(tmp_path: Path):
    plain, judged = plan_with(tmp_path), plan_with(tmp_path, panel=[ADAMW, CNN])
    assert [cell.key for cell in plain.wanted] == [cell.key for cell in judged.wanted]
    assert len(judged.cells) == len(plain.cells) + 2
