"""What the harness hands to the metrics of visualizations: a panel's logits, real activations, references."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.contract import Undefined
from bench.execute.cell import expectations
from bench.execute.lab import Lab
from bench.execute.measure import Expected, Roles, expected, measure
from bench.execute.state import todo
from bench.execute.tracks import stored_tensors
from bench.plan.cells import Cell
from bench.record import Cost, Store
from tests.execute import tiny
from tests.execute.conftest import Finished

SGD, ADAMW, CNN = "mlp.digits.sgd", "mlp.digits.adamw", "cnn.digits.sgd"
OF_CLASSES = (
    "target_top1",
    "target_top5",
    "panel_top1",
    "panel_top5",
    "centroid_distance_ratio_referee",
    "reference_copy_ratio",
)


@dataclasses.dataclass(frozen=True)
class World:
    """The finished suite's store with a panel trained, and cells that it judges."""

    store: Store
    judged: Cell
    plain: Cell
    channel: Cell

    @property
    def lab(self) -> Lab:
        return Lab(self.store, None, torch.device("cpu"))

    def roles(self, cell: Cell, **made: Tensor) -> Roles:
        return Roles(cell, self.lab, made or stored_tensors(self.store, cell.key), Cost(), {})


@pytest.fixture(scope="module")
def world(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("panel")
    store = finished.copy(folder / "copy").store
    block = tiny.SUITE["tracks"]["visualization"]
    channels = {**block, "conditions": ["channel_hidden1"], "targets": [5, 0, 2]}
    plan = tiny.plan_of(folder, panel=[ADAMW, CNN, SGD], tracks={"visualization": [block, channels]})
    judged, channel = plan.wanted
    tiny.run_here([cell for cell in plan.cells if cell.key in judged.panel_keys], store)
    tiny.run_here([channel], store)
    return World(store, judged, tiny.find(finished.plan, "visualization"), channel)


def digits(world: World, split: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images of a split in the data set's own order for parts of it, and their labels."""
    data = world.lab.data(world.plain)
    places = data.select(split, count)
    return data.images(split, places).float() / 255, data.labels(split)[places]


def readings(world: World, cell: Cell, stems: Sequence[str], **made: Tensor) -> dict[str, Any]:
    wanted = {stem: Expected(stem, "", "", "") for stem in stems}
    artifacts = made or stored_tensors(world.store, cell.key)
    found, _ = measure(cell, world.lab, artifacts, wanted, cost=Cost(), notes={})
    return {reading.stem: reading for reading in found}


# ---- the panel -----------------------------------------------------------------------------------------------------


def test_the_panel_looks_at_what_the_method_made(world: World):
    seen = world.roles(world.judged).get("panel_logits")
    made = stored_tensors(world.store, world.judged.key)["generated"]
    assert world.judged.panel == (ADAMW, CNN), "without the subject"
    assert seen.shape == (10, 2, 10)
    for place, (name, key) in enumerate(zip(world.judged.panel, world.judged.panel_keys, strict=True)):
        with torch.no_grad():
            direct = world.lab.model(world.judged, name, key)(made)
        torch.testing.assert_close(seen[:, place], direct, rtol=1e-4, atol=1e-4)


def test_its_verdict_is_a_share_and_its_name_says_who_judged(world: World):
    images, labels = digits(world, "test", 10)
    order = torch.cat([(labels == label).nonzero()[:1, 0] for label in range(10)])  # one of each class, as was asked
    found = readings(world, world.judged, ["panel_top1"], generated=images[order])["panel_top1"]
    right = []
    for name, key in zip(world.judged.panel, world.judged.panel_keys, strict=True):
        with torch.no_grad():
            guesses = world.lab.model(world.judged, name, key)(images[order]).argmax(1)
        right.append((guesses == torch.arange(10)).double())
    assert found.metric == "panel_top1_mlp+cnn"
    assert found.value == pytest.approx(torch.stack(right).mean().item())
    assert 0.2 < found.value < 1, "real images tell a trained panel from chance"


def test_without_a_panel_there_is_a_reason(world: World):
    assert world.roles(world.plain).get("panel_logits") == Undefined("the suite names no panel")
    assert readings(world, world.plain, ["panel_top1"])["panel_top1"].metric == "panel_top1_panel"


def test_a_member_below_its_gate_judges_nothing_unless_gates_are_overridden(world: World):
    strict = dataclasses.replace(world.judged, panel_gates=(None, 0.999))
    refused = world.roles(strict).get("panel_logits")
    assert isinstance(refused, Undefined)
    assert refused.reason.startswith(f"{CNN} has a clean accuracy of 0.")
    assert world.roles(dataclasses.replace(strict, override_gate=True)).get("panel_logits").shape == (10, 2, 10)


# ---- the identity of readings --------------------------------------------------------------------------------------


def test_a_cell_without_a_panel_keeps_the_identities_of_published_readings(world: World):
    cell = world.plain
    found = expected(cell, "referee_top1", "J", "D")
    reference = hashlib.sha256(b"J|D|30|None").hexdigest()
    assert found.reference_sha256 == reference
    text = "|".join((cell.key, "referee_top1", found.metric_sha256, reference))
    assert found.score_id == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_with_a_panel_they_depend_on_its_weights_and_gates(world: World):
    def named(cell: Cell, *panel: str) -> str:
        return expected(cell, "panel_top1", "J", "D", panel).score_id

    gated = dataclasses.replace(world.judged, panel_gates=(None, 0.3))
    ids = [named(world.plain), named(world.judged, "a", "b"), named(world.judged, "a", "c"), named(gated, "a", "b")]
    assert len(set(ids)) == 4


def test_other_weights_of_a_member_make_the_readings_be_taken_again(world: World):
    store, cell = world.store, world.judged
    record = store.read(cell.key)
    assert todo(cell, store, record) == "score", "its readings were taken without the panel"
    before = expectations(cell, store)["panel_top1"].reference_sha256
    key = cell.panel_keys[0]
    assert key is not None
    member = store.read(key)
    other = {"weights_sha256": "0" * 64}
    store.rewrite(member.model_copy(update={"provenance": member.provenance | other}), store.values(member))
    assert expectations(cell, store)["panel_top1"].reference_sha256 != before
    store.rewrite(member, store.values(member))
    assert expectations(cell, store)["panel_top1"].reference_sha256 == before


# ---- real images ---------------------------------------------------------------------------------------------------


def test_a_class_is_measured_by_the_mean_logit_of_its_real_images(world: World):
    images, labels = digits(world, "test", 30)
    roles = world.roles(world.plain)
    with torch.no_grad():
        logits = roles.get("target")(images)
    means = [logits[labels == label, label].mean().item() for label in range(10)]
    assert roles.get("real_activation").tolist() == pytest.approx(means, rel=1e-4)


def test_a_class_without_real_images_has_no_real_activation(world: World):
    few = dataclasses.replace(world.plain, real_images=5)
    _, labels = digits(world, "test", 5)
    missing = min(set(range(10)) - set(labels.tolist()))
    assert world.roles(few).get("real_activation") == Undefined(f"no real image of class {missing}")


def test_a_channel_is_measured_by_the_nine_real_images_that_drive_it_most(world: World):
    images, _ = digits(world, "test", 30)
    roles = world.roles(world.channel)
    with torch.no_grad():
        seen = roles.get("target").features(images, "hidden1")
    assert (seen.ndim, len(seen)) == (2, 30)
    by_channel = {channel: sum(sorted(seen[:, channel].tolist())[-9:]) / 9 for channel in (5, 0, 2)}
    wanted = [by_channel[channel] for channel in (5, 0, 2, 5, 0, 2, 5, 0, 2, 5)]
    assert roles.get("real_activation").tolist() == pytest.approx(wanted, rel=1e-4)
    made = roles.get("target").features(roles.get("generated"), "hidden1")
    direct = [made[place, channel].item() for place, channel in enumerate((5, 0, 2, 5, 0, 2, 5, 0, 2, 5))]
    assert roles.get("activation").tolist() == pytest.approx(direct, rel=1e-4)


def test_the_subject_looks_at_real_images_once_for_all_cells(world: World, monkeypatch: pytest.MonkeyPatch):
    first = world.roles(world.channel).get("real_activation")
    monkeypatch.setattr(Roles, "_real", lambda self: pytest.fail("looked again"))
    assert torch.equal(world.roles(world.channel).get("real_activation"), first)


def test_the_subjects_features_of_real_images_are_those_of_its_last_tap(world: World):
    images, _ = digits(world, "test", 30)
    roles = world.roles(world.plain)
    with torch.no_grad():
        direct = roles.get("target").features(images, "penultimate").flatten(1)
    torch.testing.assert_close(roles.get("real_target_features"), direct, rtol=1e-4, atol=1e-4)


def test_references_are_the_training_images_of_the_task_as_the_referee_sees_them(world: World):
    images, labels = digits(world, "train", 20)
    roles = world.roles(world.plain)
    with torch.no_grad():
        direct = roles.get("judge").features(images, "penultimate").flatten(1)
    torch.testing.assert_close(roles.get("reference_referee_features"), direct, rtol=1e-4, atol=1e-4)
    assert torch.equal(roles.get("reference_labels"), labels)


def test_a_copied_reference_is_found_out(world: World):
    images, labels = digits(world, "train", 20)
    order = torch.cat([(labels == label).nonzero()[:1, 0] for label in range(10)])
    found = readings(world, world.plain, ["reference_copy_ratio"], generated=images[order])["reference_copy_ratio"]
    fresh = digits(world, "test", 40)
    places = torch.cat([((fresh[1] == label) & (torch.arange(40) >= 30)).nonzero()[:1, 0] for label in range(10)])
    unseen = readings(world, world.plain, ["reference_copy_ratio"], generated=fresh[0][places])["reference_copy_ratio"]
    assert found.value is not None and unseen.value is not None
    assert found.value < 1e-3 < 0.5 < unseen.value < 2


# ---- channels ------------------------------------------------------------------------------------------------------


def test_what_needs_a_class_is_undefined_for_a_channel_with_the_reason(world: World):
    found = readings(world, world.channel, OF_CLASSES)
    assert {(one.status, one.error) for one in found.values()} == {("undefined", "a channel has no class label")}
    assert len(found) == len(OF_CLASSES)


def test_the_others_have_a_value_for_a_channel(world: World):
    stems = ("activation_ratio", "frechet_target_penultimate", "kernel_target_penultimate", "self_similarity_ratio")
    found = readings(world, world.channel, stems)
    assert {stem: one.status for stem, one in found.items()} == dict.fromkeys(stems, "ok")
    assert found["frechet_target_penultimate"].n_reference == 30
