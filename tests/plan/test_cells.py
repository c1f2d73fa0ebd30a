"""From a suite to its cells: what is crossed, what is needed, what a key depends on, why a cell is skipped."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.contract import SetupError
from bench.execute.runner import index_of
from bench.plan.cells import Cell, Plan, _Planner, make_plan
from bench.plan.estimate import bytes_of, seconds_of
from bench.plan.suite import Suite, load_suite
from bench.zoo.datasets import open_dataset
from tests.execute import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return tiny.plan_of(tmp_path_factory.mktemp("plan"))


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)


def find(plan: Plan, track: str, method: str, **facts: Any) -> Cell:
    (cell,) = [
        c
        for c in plan.cells
        if (c.track, c.method) == (track, method) and all(getattr(c, name) == value for name, value in facts.items())
    ]
    return cell


def test_channels_that_no_targets_name_are_planned_as_they_are_run_all_in_turn(tmp_path: Path):
    block = {"methods": ["pixel_ascent"], "conditions": ["channel_hidden1"], "images": 5}
    suite = load_suite(str(tiny.write_suite(tmp_path, tracks={"visualization": block})))
    assert isinstance(suite, Suite)
    planner = _Planner(suite, open_dataset("digits", None), None)
    (planned,) = suite.tracks["visualization"]
    assert planner._shown(planned, "mlp.digits.sgd", "channel_hidden1").targets == (0, 1, 2, 3, 4)


# ---- crossing ------------------------------------------------------------------------------------------------------


def test_a_block_is_crossed_over_subjects_conditions_methods_and_seeds(tmp_path: Path):
    block = {"conditions": ["none", "linf_8_255"], "methods": ["fgsm", "pgd"], "images": 4, "budget": 90}
    plan = tiny.plan_of(
        tmp_path,
        subjects=["mlp.digits.sgd", "mlp.digits.adamw"],
        seeds=[0, 1, 2],
        referee=None,
        tracks={"adversarial": block},
    )
    names = [(c.subject, c.condition, c.method, c.seed) for c in plan.wanted]
    assert len(names) == len(set(names)) == 2 * 2 * 2 * 3
    assert len(plan.cells) == 24 + 2 * 3, "each subject is trained once a seed"


def test_run_seed_s_uses_the_subject_trained_with_seed_s_and_the_referee_has_its_own(tmp_path: Path):
    plan = tiny.plan_of(tmp_path, seeds=[3, 4])
    training = {cell.key: cell for cell in plan.cells if cell.track == "training"}
    assert sorted(cell.seed for cell in training.values()) == [3, 4, 1000]
    for cell in plan.wanted:
        if cell.track != "training":
            assert cell.subject_key is not None and training[cell.subject_key].seed == cell.seed
            assert cell.judge_key is not None and training[cell.judge_key].seed == 1000


def test_needs_stand_before_what_needs_them(plan: Plan):
    keys = [cell.key for cell in plan.cells]
    for place, cell in enumerate(plan.cells):
        assert set(cell.needs) <= set(keys[:place])


def test_a_detector_faces_the_very_cell_of_the_adversarial_track(plan: Plan):
    attack = find(plan, "adversarial", "pgd")
    detection = find(plan, "detection", "max_softmax")
    assert detection.attack_key == detection.known_attack_key == attack.key and attack.wanted
    assert attack.images == 10 and detection.images == 3 * 5, "half of the pictures, each clean, noisy and attacked"


def test_a_detector_that_learned_from_another_attack_needs_both(tmp_path: Path, plan: Plan):
    block = {**tiny.SUITE["tracks"]["detection"], "conditions": ["fgsm_linf_51_255_after_pgd_linf_51_255"]}
    detection = tiny.find(tiny.plan_of(tmp_path, tracks={**tiny.SUITE["tracks"], "detection": block}), "detection")
    faced, known = (find(plan, "adversarial", name).key for name in ("fgsm", "pgd"))
    assert (detection.attack_key, detection.known_attack_key) == (faced, known)
    assert {faced, known} <= set(detection.needs)


@pytest.mark.parametrize(
    ("faced", "known", "judged", "learned"), [(7, 7, 4, 3), (1, 1, 1, 0), (10, 4, 5, 4), (4, 10, 2, 2)]
)
def test_a_detector_is_asked_before_the_run_with_as_much_as_there_can_be(
    tmp_path: Path, faced: int, known: int, judged: int, learned: int
):
    registry.add_plugin(ROOT / "tests" / "execute" / "planted_detector.py")
    blocks = [
        {"conditions": ["linf_51_255"], "methods": [name], "images": images, "budget": 90, "references": 20}
        for name, images in (("fgsm", faced), ("pgd", known))
    ]
    counting = {"name": "planted_detector", "variant": "counts", "settings": {"what": "counts"}}
    condition = "fgsm_linf_51_255_after_pgd_linf_51_255"
    detection = {"conditions": [condition], "methods": [counting], "images": 50, "budget": 9, "references": 30}
    plan = tiny.plan_of(tmp_path, tracks={"adversarial": blocks, "detection": detection})
    cell = tiny.find(plan, "detection", "planted_detector", "counts")
    assert cell.images == 3 * judged
    assert cell.skip == ("skipped", f"{3 * judged} to judge, 30 clean, {3 * learned} known")


def test_an_attack_that_no_track_asks_for_is_planned_for_the_detector_alone(tmp_path: Path):
    plan = tiny.plan_of(tmp_path, tracks={"detection": tiny.SUITE["tracks"]["detection"]})
    attack = find(plan, "adversarial", "pgd")
    assert not attack.wanted
    assert [cell.track for cell in plan.wanted] == ["detection"]


def test_the_index_lists_what_is_wanted_in_the_order_of_the_plan(plan: Plan):
    index = index_of(plan)
    assert [cell.key for cell in index.cells] == [cell.key for cell in plan.wanted]
    assert index.board == "tiny" and index.primary["detection"] == "auroc"
    assert [cell.identity.method for cell in index.cells if cell.is_reference] == ["real_images"]


# ---- keys ----------------------------------------------------------------------------------------------------------

CHANGES = {  # change of the tiny suite → whether the key of its cell inversion/pixel_ascent changes
    "protocol": ({"protocol": 2}, True),
    "seed": ({"seeds": [5]}, True),
    "batch size": ({"batch_size": 4}, True),
    "threads": ({"threads": 2}, True),
    "budget": ({"budget": 22}, True),
    "images": ({"images": 12}, True),
    "targets": ({"targets": [1, 2]}, True),
    "batch size of the block": ({"block": {"batch_size": 4}}, True),
    "settings": (
        {"methods": [{"name": "pixel_ascent", "variant": "slow", "settings": {"step_size": 0.01}}]},
        True,
    ),
    "recipe of the subject": ({"recipes": {"default": {**tiny.SUITE["recipes"]["default"], "epochs": 2}}}, True),
    "subject": ({"subjects": ["mlp.digits.adamw"]}, True),
    "name": ({"suite": "other"}, False),
    "version": ({"version": "9.9.9"}, False),
    "description": ({"description": "another"}, False),
    "referee": ({"referee": "mlp.digits.adamw"}, False),
    "metrics": ({"metrics": ["referee_agreement"]}, False),
    "reference images": ({"real_images": 40}, False),
    "time limit": ({"timeout_s": 5}, False),
    "gate": ({"gates": {"mlp.digits.sgd": 0.1}}, False),
}
OF_THE_BLOCK = ("budget", "images", "targets", "methods", "metrics")


def key_after(folder: Path, changes: dict[str, Any]) -> str:
    block = {"methods": ["pixel_ascent"], "images": 10, "budget": 20}
    block |= {name: changes[name] for name in OF_THE_BLOCK if name in changes} | changes.get("block", {})
    others = {name: value for name, value in changes.items() if name not in (*OF_THE_BLOCK, "block")}
    return find(tiny.plan_of(folder, tracks={"inversion": block}, **others), "inversion", "pixel_ascent").key


@pytest.mark.parametrize("what", CHANGES)
def test_a_key_changes_with_what_can_change_the_images_and_with_nothing_else(tmp_path: Path, plan: Plan, what: str):
    changes, matters = CHANGES[what]
    same = key_after(tmp_path, changes) == find(plan, "inversion", "pixel_ascent").key
    assert same is not matters


def test_the_number_of_judging_images_is_in_the_key_of_those_who_show_the_next_ones_alone(tmp_path: Path, plan: Plan):
    other = tiny.plan_of(tmp_path, real_images=int(tiny.SUITE["real_images"]) + 10)
    assert find(other, "inversion", "real_images").key != find(plan, "inversion", "real_images").key
    assert find(other, "inversion", "pixel_ascent").key == find(plan, "inversion", "pixel_ascent").key


def test_a_key_is_16_hexadecimal_digits_of_what_the_record_will_keep(plan: Plan):
    for cell in plan.cells:
        assert len(cell.key) == 16 and int(cell.key, 16) >= 0
        assert json.loads(json.dumps(dict(cell.spec))) == cell.spec


def test_no_two_cells_have_one_key_and_all_seeds_of_a_row_one_configuration(tmp_path: Path):
    plan = tiny.plan_of(tmp_path, seeds=[0, 1])
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
    rows: dict[tuple[str, ...], set[str]] = {}
    for cell in plan.wanted:
        row = (cell.track, cell.subject, cell.condition, cell.method, cell.variant)
        rows.setdefault(row, set()).add(cell.config_digest)
    assert all(len(digests) == 1 for digests in rows.values())


def test_a_changed_source_changes_the_key_of_its_own_cells_alone(tmp_path: Path):
    text = tiny.FAULTY.read_text(encoding="utf-8")
    keys = []
    for number, source in enumerate((text, text.replace("return images\n", "return images * 1\n"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "faulty.py").write_text(source, encoding="utf-8")
        registry._plugins.clear()
        registry.source_digest.cache_clear()
        registry.add_plugin(folder / "faulty.py")
        block = {"conditions": ["none"], "methods": ["faulty", "fgsm"], "images": 4, "budget": 10}
        plan = tiny.plan_of(folder, tracks={"adversarial": block})
        keys.append({cell.method: cell.key for cell in plan.cells if cell.track == "adversarial"})
    assert keys[0]["faulty"] != keys[1]["faulty"]
    assert keys[0]["fgsm"] == keys[1]["fgsm"]


# ---- reasons to skip -----------------------------------------------------------------------------------------------


def test_a_reason_to_skip_stands_in_the_plan_and_a_fault_in_asking_costs_only_its_own_cells(tmp_path: Path):
    registry.add_plugin(tiny.FAULTY)
    plan = tiny.plan_of(tmp_path, tiny.faults("refuses", "why_not", "none"))
    assert {cell.variant: cell.skip for cell in plan.wanted} == {
        "refuses": ("skipped", "needs a rainy day, the sun shines"),
        "why_not": ("failed", "why_not: ValueError: no idea"),
        "none": None,
    }


# ---- estimates -----------------------------------------------------------------------------------------------------


def test_a_setting_that_a_method_refuses_is_told_with_its_row(tmp_path: Path):
    method = {"name": "label_generator", "variant": "thin", "settings": {"width": 0}}
    with pytest.raises(SetupError, match=r"^inversion/label_generator \(thin\): width is 0\n  at least 1$"):
        tiny.plan_of(tmp_path, tracks={"inversion": {"methods": [method], "images": 10, "budget": 20}})


def test_passes_are_the_budget_of_all_images_or_the_recipe_of_a_training(plan: Plan):
    assert find(plan, "inversion", "pixel_ascent").passes == 20 * 10
    assert find(plan, "training", "sgd", seed=0).passes == 2 * 1 * 200


def test_time_is_estimated_for_what_will_run_and_is_nothing_for_what_is_skipped(plan: Plan):
    import torch

    skipped = dataclasses.replace(plan.cells[-1], skip=("skipped", "a reason"))
    seconds = seconds_of(dataclasses.replace(plan, cells=(*plan.cells[:-1], skipped)), None, torch.device("cpu"))
    assert seconds[skipped.key] == 0.0
    assert all(0 < seconds[cell.key] < 60 for cell in plan.cells[:-1])


def test_the_room_a_cell_needs_is_not_less_than_it_takes(plan: Plan, tmp_path: Path):
    store = tiny.make_store(tmp_path)
    cells = [cell for cell in plan.cells if cell.track in ("training", "adversarial", "detection", "attribution")]
    tiny.run_here(cells, store)
    for cell in cells:
        places = (store.cell(cell.key), store.root / "subjects" / cell.key)
        taken = sum(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())
        assert taken <= bytes_of(cell, plan)


# ---- the suites that come with the project -------------------------------------------------------------------------


def test_the_smoke_suite_keeps_every_track_alive():
    plan = make_plan(load_suite("smoke"), None)
    assert {cell.track for cell in plan.wanted} == {
        "training", "reconstruction", "inversion", "visualization", "adversarial", "detection", "attribution",
    }  # fmt: skip
    asked = {cell.full_method for cell in plan.wanted}
    assert asked <= set(registry.method_names())
    assert all(cell.skip is None for cell in plan.cells)


def test_checking_a_suite_loads_no_torch():
    script = "import sys; from bench.plan.suite import load_suite; load_suite('smoke'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
