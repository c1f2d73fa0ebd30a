"""What a detector is judged by and learns from, and what planted detectors come to by it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import registry
from bench.contract import DetectionTask, metric
from bench.execute import detection, measure
from bench.execute.cell import inputs_of
from bench.execute.lab import Lab
from bench.execute.tracks import stored_tensors, whole_task
from bench.plan.cells import Cell, Plan
from bench.record import Reading, Record, Store
from tests.execute import tiny

HERE = Path(__file__).parent
PICTURES = 360
ALL, NOBODY, FEW = "planted_none", "planted_linf_1_255", "planted_l2_100_1"
CONDITIONS = (ALL, NOBODY, FEW, f"{ALL}_after_{NOBODY}", f"{FEW}_after_{ALL}", "fgsm_linf_51_255")


EACH = {"images": PICTURES, "budget": 90, "references": 20}


def attacks(method: str, *bounds: str) -> dict[str, Any]:
    return {"conditions": list(bounds), "methods": [method], "metrics": ["success_rate"], **EACH}


def planted(conditions: Iterable[str], *what: str) -> dict[str, Any]:
    methods = [{"name": "planted_detector", "variant": name, "settings": {"what": name}} for name in what]
    return {"conditions": list(conditions), "methods": methods, **EACH}


SUITE = {
    **tiny.SUITE,
    "suite": "planted",
    "batch_size": 64,
    "referee": None,
    "recipes": {"default": {"epochs": 6, "batch_size": 32, "warmup_epochs": 0, "images": 1000}},
    "tracks": {
        "adversarial": [attacks("planted", "none", "linf_1_255", "l2_100_1"), attacks("fgsm", "linf_51_255")],
        "detection": [
            planted(CONDITIONS, "mark"),
            planted(CONDITIONS[:-1], "learns"),
            planted([ALL], "chance", "memory"),
            planted(["fgsm_linf_51_255"], "chance"),
        ],
    },
}


@dataclass(frozen=True)
class World:
    """The planted suite, run to its end."""

    plan: Plan
    store: Store

    def cell(self, condition: str, what: str = "mark") -> Cell:
        (found,) = [cell for cell in self.plan.cells if (cell.condition, cell.variant) == (condition, what)]
        return found

    def record(self, condition: str, what: str = "mark") -> Record:
        return self.store.read(self.cell(condition, what).key)

    def reading(self, condition: str, what: str, stem: str) -> Reading:
        (found,) = [one for one in self.record(condition, what).readings if one.stem == stem]
        return found

    def task(self, condition: str) -> tuple[DetectionTask, dict[str, torch.Tensor]]:
        cell, lab = self.cell(condition), Lab(self.store, None, torch.device("cpu"))
        task, kept = whole_task(cell, lab, lab.model(cell, cell.subject, cell.subject_key))
        assert isinstance(task, DetectionTask)
        return task, kept

    def attack_of(self, condition: str) -> torch.Tensor:
        """What the attack behind a condition made of all pictures."""
        key = self.cell(condition).attack_key
        assert key is not None
        return stored_tensors(self.store, key)["generated"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_plugins", {})
        for name in ("planted", "planted_detector"):
            registry.add_plugin(HERE / f"{name}.py")
        plan, store = tiny.plan_of(folder, SUITE), tiny.make_store(folder)
        tiny.run_here(plan.cells, store)
    return World(plan, store)


# ---- planted detectors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["mark", "learns"])
@pytest.mark.parametrize("condition", [ALL, FEW, f"{FEW}_after_{ALL}"])
def test_a_detector_that_sees_the_attacks_mark_separates_all(world: World, condition: str, what: str):
    for stem in ("auroc", "aupr", "auroc_against_noise"):
        reading = world.reading(condition, what, stem)
        assert (reading.status, reading.value) == ("ok", 1.0)


@pytest.mark.parametrize("stem", ["auroc", "auroc_against_noise"])
def test_a_detector_that_draws_is_at_chance(world: World, stem: str):
    assert world.reading(ALL, "chance", stem).value == pytest.approx(0.5, abs=0.05)


def test_a_detector_that_knows_its_pictures_by_heart_meets_none_of_them_again(world: World):
    scores = stored_tensors(world.store, world.cell(ALL, "memory").key)["scores"]
    assert len(scores) and not scores.any()
    assert world.reading(ALL, "memory", "auroc").value == 0.5


# ---- the split -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [ALL, FEW, f"{FEW}_after_{ALL}", "fgsm_linf_51_255"])
def test_what_is_learned_from_and_what_is_judged_by_stem_from_other_pictures(world: World, condition: str):
    task, kept = world.task(condition)
    order = Lab(world.store, None, torch.device("cpu")).data(world.cell(condition)).select("test", PICTURES).tolist()
    assert set(task.known_originals.tolist()) <= set(order[: PICTURES // 2])
    assert set(kept["originals"].tolist()) <= set(order[PICTURES // 2 :])
    assert len(task.known) and len(task.images)


def test_one_picture_on_both_sides_is_an_error():
    detection.check_apart(torch.tensor([4, 4, 1]), torch.tensor([2, 3, 2]))
    with pytest.raises(RuntimeError, match=r"^1 pictures are on both sides of the detector's split, first 4$"):
        detection.check_apart(torch.tensor([4, 4, 1]), torch.tensor([2, 4, 2]))


@pytest.mark.parametrize("condition", [ALL, "fgsm_linf_51_255"])
def test_only_attacks_that_turn_a_right_answer_count_each_with_its_clean_and_noisy_picture(
    world: World, condition: str
):
    task, kept = world.task(condition)
    lab, cell = Lab(world.store, None, torch.device("cpu")), world.cell(condition)
    places = lab.data(cell).select("test", PICTURES)
    clean, labels = lab.images(cell, "test", places), lab.labels(cell, "test", places)
    attacked = world.attack_of(condition)
    right, still = (task.model(images).argmax(1) == labels for images in (clean, attacked))
    by_hand = [n for n in range(PICTURES // 2, PICTURES) if right[n] and not still[n]]
    assert torch.equal(kept["right"], right[PICTURES // 2 :])
    assert 0 < len(by_hand) < PICTURES // 2

    rows = {int(original): (kept["originals"] == original).nonzero()[:, 0] for original in kept["originals"].unique()}
    assert sorted(rows) == sorted(int(places[n]) for n in by_hand)
    for n in by_hand:
        three = rows[int(places[n])]
        assert len(three) == 3
        (struck,) = task.images[three][kept["attacked"][three]]
        (noisy,) = task.images[three][kept["noisy"][three]]
        (plain,) = task.images[three][~kept["attacked"][three] & ~kept["noisy"][three]]
        assert torch.equal(struck, attacked[n]) and torch.equal(plain, clean[n])
        assert (noisy - plain).norm() <= (struck - plain).norm() * (1 + 1e-5)
    assert world.reading(condition, "mark", "positives").value == len(by_hand)


def test_what_is_known_has_true_labels_and_a_third_of_it_is_attacked(world: World):
    task, _ = world.task(ALL)
    lab = Lab(world.store, None, torch.device("cpu"))
    assert torch.equal(task.known_labels, lab.labels(world.cell(ALL), "test", task.known_originals))
    for original in task.known_originals.unique():
        assert task.known_attacked[task.known_originals == original].sum() == 1
    answers = task.model(task.known).argmax(1)
    assert not (answers == task.known_labels)[task.known_attacked].any()
    assert torch.equal(task.known[task.known_attacked][:, 0, 0, 0], torch.ones(len(task.known) // 3))


def test_after_another_attack_the_pictures_are_those_and_the_lesson_is_the_others(world: World):
    (task, kept), (few, few_kept), (every, _) = (world.task(name) for name in (f"{FEW}_after_{ALL}", FEW, ALL))
    assert torch.equal(task.images, few.images) and torch.equal(kept["originals"], few_kept["originals"])
    assert torch.equal(task.known, every.known)
    assert len(few.known) < len(every.known)


def test_the_order_says_nothing_and_passes_that_tell_success_are_nobodys_cost(world: World):
    task, kept = world.task(ALL)
    third = len(task) // 3
    assert third // 5 < kept["attacked"][:third].sum() < third // 2
    cost = world.record(ALL).cost
    assert (cost.forward_passes, cost.backward_passes, cost.n_images) == (0, 0, len(task))
    assert world.record(ALL).notes["split"] == {
        "pictures": PICTURES // 2,
        "right": int(kept["right"].sum()),
        "judged": third,
        "known": len(task.known) // 3,
    }


def test_other_images_of_either_attack_make_the_detector_run_again(world: World):
    cell = world.cell(f"{FEW}_after_{ALL}")
    assert cell.attack_key != cell.known_attack_key
    made = [
        world.store.read(str(key)).provenance["artifact_sha256"] for key in (cell.attack_key, cell.known_attack_key)
    ]
    found = inputs_of(cell, world.store)
    assert [found["attack_sha256"], found["known_attack_sha256"]] == made
    assert world.record(f"{FEW}_after_{ALL}").provenance.items() >= found.items()


# ---- attacks that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["mark", "learns"])
def test_when_no_attack_succeeds_nothing_has_a_value_and_the_counts_say_why(world: World, what: str):
    record = world.record(NOBODY, what)
    assert (record.status, record.error) == ("ok", "")
    assert {reading.status for reading in record.readings} == {"undefined"}
    right = record.notes["split"]["right"]
    assert right > 100
    for stem in ("auroc", "aupr", "tpr_at_5fpr", "auroc_against_noise", "positives"):
        said = world.reading(NOBODY, what, stem).error
        assert said == f"no attack succeeded: 0 of {right} pictures that the subject has right, of {PICTURES // 2}"


def test_who_has_nothing_to_learn_from_is_skipped_and_others_go_on(world: World):
    condition = f"{ALL}_after_{NOBODY}"
    learner = world.record(condition, "learns")
    assert (learner.status, learner.error) == ("skipped", "learns from attacked pictures, has 0")
    assert world.reading(condition, "mark", "auroc").value == 1.0
    assert world.record(condition).notes["split"]["known"] == 0


def test_few_successes_are_a_number_or_a_reason_with_the_counts(world: World):
    count = world.reading(FEW, "mark", "positives").value
    assert count is not None and 0 < count < 10
    reading = world.reading(FEW, "mark", "tpr_at_5fpr")
    if 2 * count < 20:
        assert (reading.status, reading.value) == ("undefined", None)
        assert reading.error == f"needs attacked images and 20 clean ones, got {count:.0f} and {2 * count:.0f}"


def test_a_subject_that_has_nothing_right_leaves_nothing_to_judge(world: World):
    cell, lab = world.cell(ALL), Lab(world.store, None, torch.device("cpu"))
    model = lab.model(cell, cell.subject, cell.subject_key)
    with torch.no_grad():
        for parameter in list(model.network.parameters())[-2:]:
            parameter.neg_()  # the likeliest class is now the least likely one
    task, kept = whole_task(cell, lab, model)
    assert (len(task), len(task.known)) == (0, 0)
    assert not kept["right"].any()


# ---- noise ---------------------------------------------------------------------------------------------------------


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one.double() - other.double()).square().sum((1, 2, 3)).sqrt()


@pytest.mark.parametrize("ground", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("size", [0.01, 0.1, 0.3])
def test_noise_goes_as_far_as_the_attack_whatever_is_clipped(ground: float, size: float):
    clean = torch.full((3, 1, 28, 28), ground)
    attacked = clean + size * (1 if ground < 0.5 else -1)
    noisy = detection.with_noise(clean, attacked, torch.arange(3), 0)
    torch.testing.assert_close(distance(noisy, clean), distance(attacked, clean), rtol=1e-5, atol=0)
    assert noisy.min() >= 0 and noisy.max() <= 1 and noisy.dtype == torch.float32


def test_noise_is_uniform():
    clean = torch.full((2, 3, 32, 32), 0.5)
    change = detection.with_noise(clean, clean + 0.05, torch.arange(2), 0) - clean
    edge = 3**0.5 * 0.05  # the root mean square of a uniform number in ±a is a / √3
    assert change.abs().max().item() == pytest.approx(edge, rel=0.02)
    shares = torch.histc(change, 10, -1.03 * edge, 1.03 * edge) / change.numel()
    assert shares[1:-1].min() > 0.085 and shares[1:-1].max() < 0.12


def test_noise_depends_on_seed_and_original_alone():
    clean, attacked = torch.full((2, 1, 8, 8), 0.4), torch.full((2, 1, 8, 8), 0.5)
    both = detection.with_noise(clean, attacked, torch.tensor([5, 9]), 3)
    alone = detection.with_noise(clean[:1], attacked[:1], torch.tensor([9]), 3)
    torch.testing.assert_close(both[1:], alone)
    other = detection.with_noise(clean[:1], attacked[:1], torch.tensor([9]), 4)
    assert (both[0] - both[1]).abs().max() > 0.01 and (alone - other).abs().max() > 0.01


def test_where_noise_cannot_go_as_far_it_goes_as_far_as_its_signs_let_it():
    clean = torch.zeros(1, 1, 28, 28)
    noisy = detection.with_noise(clean, 1 - clean, torch.arange(1), 0)
    assert set(noisy[noisy > 0.999].tolist()) == {1.0}
    assert 0.45 < noisy.mean() < 0.55


# ---- intervals -----------------------------------------------------------------------------------------------------


@metric(unit="x", better="neither", per="set", bounds=(None, None), tracks=("detection",), replicates=50)
def share(*, attacked):
    return attacked.double().mean()


def test_replicates_draw_pictures_with_all_that_was_made_of_each():
    originals = torch.tensor([7, 3, 5, 3, 7, 5, 5, 3, 7])
    attacked = torch.tensor([True, False, False, True, False, False, True, False, False])
    rows = measure._draws_of_originals(50, originals)
    for row in rows:
        drawn = originals[torch.from_numpy(row)]
        assert len(drawn) == 9
        for original in (3, 5, 7):
            places = [place for place in row.tolist() if originals[place] == original]
            assert len(set(map(places.count, places))) <= 1 and len(set(places)) in (0, 3)
    assert len({tuple(sorted(row.tolist())) for row in rows}) > 3
    cell: Any = tiny.SimpleNamespace(track="detection", images=9)
    outcome = measure._per_set(share, share.__glassbench__, cell, {"attacked": attacked}, originals)  # type: ignore[attr-defined]
    assert set(outcome[1]["replicates"].tolist()) == {1 / 3}
    plain = measure._per_set(share, share.__glassbench__, cell, {"attacked": attacked})  # type: ignore[attr-defined]
    assert len(set(plain[1]["replicates"].tolist())) > 3


def test_intervals_of_a_detectors_cell_rest_on_pictures(world: World):
    record = world.record("fgsm_linf_51_255", "chance")
    values = world.store.values(record)["auroc_against_noise.replicates"]
    assert len(values) == 200
    made = stored_tensors(world.store, world.cell("fgsm_linf_51_255", "chance").key)
    groups = [(made["originals"] == original).nonzero()[:, 0] for original in made["originals"].unique()]
    generator, by_hand = torch.Generator().manual_seed(0), []
    for _ in range(200):
        rows = torch.cat([groups[n] for n in torch.randint(len(groups), (len(groups),), generator=generator).tolist()])
        struck, noisy = (made["scores"][rows][made[kind][rows]] for kind in ("attacked", "noisy"))
        by_hand.append((struck[:, None] > noisy[None]).double().mean())
    assert values.std() == pytest.approx(torch.stack(by_hand).std().item(), rel=0.25)
