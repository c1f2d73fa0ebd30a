"""What the harness hands to metrics besides images: what was asked for, maps of a blank subject, cost, the network."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bench import registry
from bench.back_projection import BackProjection
from bench.contract import Undefined
from bench.execute.cell import rescore
from bench.execute.lab import Lab
from bench.execute.measure import Expected, Roles, measure
from bench.execute.tracks import stored_tensors, training_images
from bench.plan.cells import Cell, Plan
from bench.record import Cost, Reading, Record, Store
from tests.execute import tiny
from tests.execute.conftest import Finished

HERE = Path(__file__).parent


@pytest.fixture
def lab(finished: Finished) -> Lab:
    return Lab(finished.store, None, torch.device("cpu"))


def reading(record: Record, stem: str) -> Reading:
    (found,) = [one for one in record.readings if one.stem == stem]
    return found


def run_one(finished: Finished, folder: Path, plugin: str, track: str, block: Any) -> tuple[Cell, Record, Store]:
    """One cell of a plugin's, on the networks of the finished suite."""
    registry.add_plugin(HERE / f"{plugin}.py")
    copy = finished.copy(folder / "copy")
    plan: Plan = tiny.plan_of(folder, tracks={track: block})
    cell = tiny.find(plan, track, plugin, block["methods"][0].get("variant", "default"))
    (record,) = tiny.run_here([cell], copy.store)
    return cell, record, copy.store


# ---- what a method says of its images ------------------------------------------------------------------------------


def describing(finished: Finished, folder: Path, says: str) -> tuple[Cell, Record, Store]:
    named = {"name": "describing", "variant": says, "settings": {"says": says}}
    return run_one(finished, folder, "describing", "inversion", {"methods": [named], "images": 12, "budget": 20})


def test_what_a_method_says_is_kept_and_measured(finished: Finished, tmp_path: Path):
    cell, record, store = describing(finished, tmp_path, "right")
    assert (record.status, record.error) == ("ok", "")
    made = stored_tensors(store, cell.key)
    assert made["latent_groups"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert made["wanted_distribution"].shape == (12, 10)
    assert (made["wanted_distribution"] > 0).sum(1).tolist() == [2] * 12

    lab = Lab(store, None, torch.device("cpu"))
    model = lab.model(cell, cell.subject, cell.subject_key)
    log_chances = lab.logits(model, made["generated"]).double().log_softmax(1)
    labels = torch.arange(12) % 10
    both = [log_chances[torch.arange(12), (labels + shift) % 10] for shift in (0, 1)]
    by_hand = -torch.log(torch.tensor(2.0)).double() - (both[0] + both[1]) / 2
    assert reading(record, "kl_to_wanted").value == pytest.approx(by_hand.mean().item(), rel=1e-6)
    assert rescore(cell, lab, record) is record, "the same numbers are there without the method"


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (
            "nothing",
            "should return a mapping with names of wanted_distribution, latent_groups, target_labels, transparency, got"
            " NoneType",
        ),
        (
            "unknown",
            "should return a mapping with names of wanted_distribution, latent_groups, target_labels, transparency, got"
            " ['mood']",
        ),
        ("short", ": latent_groups should be (8,) int64, got (7,) torch.int64"),
        ("floats", ": latent_groups should be (8,) int64, got (8,) torch.float32"),
        ("nan", ": wanted_distribution should be finite, got 80 of 80 numbers that are not"),
        ("turns", "should name the same in every batch, got ['generated']"),
    ],
)
def test_a_description_that_is_none_fails_the_cell(finished: Finished, tmp_path: Path, says: str, error: str):
    _, record, _ = describing(finished, tmp_path, says)
    assert record.status == "failed"
    gap = "" if error.startswith(":") else " "
    assert record.error == f"ShapeError: inversion/describing.describe{gap}{error}"


def test_what_a_description_costs_is_the_methods(finished: Finished, tmp_path: Path):
    _, record, _ = describing(finished, tmp_path, "greedy")
    assert record.status == "ok"
    assert (record.cost.forward_passes, record.cost.backward_passes) == (12 * 20, 0)


def test_without_a_description_the_label_alone_was_asked_for(finished: Finished, lab: Lab):
    cell = tiny.find(finished.plan, "inversion", "pixel_ascent")
    record = finished.store.read(cell.key)
    roles = Roles(cell, lab, stored_tensors(finished.store, cell.key), record.cost, record.notes)
    assert torch.equal(roles.get("wanted_distribution"), F.one_hot(torch.arange(10), 10).float())
    assert roles.get("latent_groups") == Undefined("the method does not say which images differ by their latent alone")
    expected = F.cross_entropy(roles.get("target_logits").double(), torch.arange(10)).item()
    assert reading(record, "kl_to_wanted").value == pytest.approx(expected, rel=1e-6)


# ---- maps of the subject drawn anew --------------------------------------------------------------------------------


def test_the_blank_subjects_maps_are_kept_and_cost_nothing(finished: Finished, lab: Lab):
    cell = tiny.find(finished.plan, "attribution", "gradient")
    made, record = stored_tensors(finished.store, cell.key), finished.store.read(cell.key)
    assert made["randomised_maps"].shape == made["maps"].shape
    assert not torch.allclose(made["randomised_maps"], made["maps"])
    assert (record.cost.forward_passes, record.cost.backward_passes) == (10, 10)
    assert 0 < reading(record, "randomisation_rank_correlation").value < 0.5
    assert not lab.model(cell, cell.subject, cell.subject_key).passes.total


def test_a_map_that_ignores_the_network_is_found_out(finished: Finished):
    cell = tiny.find(finished.plan, "attribution", "random_map")
    found = reading(finished.store.read(cell.key), "randomisation_rank_correlation")
    assert found.value == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("leaves", "reason"), [(False, "Diverged: this network knows nothing"), (True, "SystemExit: 3")]
)
def test_a_method_that_fails_on_a_blank_network_costs_one_reading(
    finished: Finished, tmp_path: Path, leaves: bool, reason: str
):
    named = {"name": "giving_up", "variant": "v", "settings": {"leaves": leaves}}
    block = {"methods": [named], "images": 10, "budget": 10}
    cell, record, store = run_one(finished, tmp_path, "giving_up", "attribution", block)
    assert (record.status, record.error) == ("ok", "")
    assert set(stored_tensors(store, cell.key)) == {"maps"}
    lost = reading(record, "randomisation_rank_correlation")
    assert (lost.status, lost.error) == ("undefined", f"on the subject drawn anew: {reason}")
    assert reading(record, "insertion_auc").status == "ok"
    lab = Lab(store, None, torch.device("cpu"))
    roles = Roles(cell, lab, stored_tensors(store, cell.key), record.cost, store.read(cell.key).notes)
    assert roles.get("randomised_maps") == Undefined(lost.error), "scoring again gives the same reason"


def test_records_from_before_say_what_to_do(finished: Finished, lab: Lab):
    cell = tiny.find(finished.plan, "attribution", "gradient")
    roles = Roles(cell, lab, {"maps": torch.zeros(10, 28, 28)}, Cost(), {})
    assert roles.get("randomised_maps") == Undefined("made before this was kept: run it again, with --only and --force")


# ---- cost, and the network that training made ----------------------------------------------------------------------


def test_the_trained_network_is_handed_over(finished: Finished, lab: Lab):
    cell = next(cell for cell in finished.plan.wanted if cell.track == "training")
    record = finished.store.read(cell.key)
    made = stored_tensors(finished.store, cell.key)
    roles = Roles(cell, lab, made, record.cost, record.notes)
    seen = lab.logits(roles.get("target"), roles.get("real"))
    torch.testing.assert_close(seen, made["target_logits"], rtol=1e-4, atol=1e-4)
    assert reading(record, "parameters").value == pytest.approx(record.notes["parameters"] / 1e6)
    layers = record.notes["orthogonality"].values()
    assert all(layer["smallest_sigma"] <= layer["largest_sigma"] for layer in layers)
    mean = sum(layer["residual"] for layer in layers) / len(layers)
    assert reading(record, "orthogonality_residual").value == pytest.approx(mean, rel=1e-12)
    right = finished.store.values(record)["top1.values"]
    attacked = finished.store.values(record)["accuracy_pgd20_linf_8_255.values"]
    assert 0.1 < attacked.mean() < right.mean() and (attacked <= right).all()


@pytest.mark.parametrize("track", ["training", "reconstruction", "adversarial", "detection"])
def test_costs_are_those_of_the_record(finished: Finished, lab: Lab, track: str):
    cell = next(cell for cell in finished.plan.wanted if cell.track == track)
    record = finished.store.read(cell.key)
    cost = record.cost
    assert reading(record, "images_per_second").value == cost.n_images / cost.wall_s
    if track != "training":
        passes = cost.forward_passes + cost.backward_passes
        assert reading(record, "passes_per_image").value == passes / cost.n_images
    assert reading(record, "peak_memory_mib").error == "measured on a GPU only"
    roles = Roles(cell, lab, stored_tensors(finished.store, cell.key), cost, record.notes)
    assert roles.get("cost") == cost.model_dump()


# ---- what an attack aimed at ---------------------------------------------------------------------------------------


def roles_of(finished: Finished, lab: Lab, method: str) -> Roles:
    cell = tiny.find(finished.plan, "adversarial", method)
    record = finished.store.read(cell.key)
    return Roles(cell, lab, stored_tensors(finished.store, cell.key), record.cost, record.notes)


def test_of_an_attack_that_names_no_target_it_is_the_wrong_class_that_won_or_came_closest(finished: Finished, lab: Lab):
    roles = roles_of(finished, lab, "pgd")
    targets, labels, logits = (roles.get(name) for name in ("target_labels", "labels", "target_logits"))
    fooled = logits.argmax(1) != labels
    assert fooled.any()
    assert torch.equal(targets[fooled], logits.argmax(1)[fooled])
    assert torch.equal(targets[~fooled], logits.topk(2).indices[~fooled, 1])


def test_a_target_that_the_method_named_is_handed_over(finished: Finished, lab: Lab):
    cell = tiny.find(finished.plan, "adversarial", "pgd")
    named = stored_tensors(finished.store, cell.key) | {"target_labels": torch.arange(10)}
    assert torch.equal(Roles(cell, lab, named, Cost(), {}).get("target_labels"), torch.arange(10))


@pytest.mark.parametrize("track", ["inversion", "attribution"])
def test_elsewhere_nobody_aims_at_a_wrong_class(finished: Finished, lab: Lab, track: str):
    cell = next(cell for cell in finished.plan.wanted if cell.track == track)
    roles = Roles(cell, lab, {}, Cost(), {})
    assert roles.get("target_labels") == Undefined(f"the {track} track aims at no wrong class")
    assert roles.get("perturbation_referee_logits") == Undefined(f"the {track} track perturbs no images")


def test_class_subspaces_hold_the_back_projected_features_of_their_class(finished: Finished, lab: Lab):
    roles = roles_of(finished, lab, "pgd")
    model, subspaces = roles.get("target"), roles.get("class_subspaces")
    assert sorted(subspaces) == list(range(10))
    for rows in subspaces.values():
        assert rows.shape == (16, 28 * 28)
        torch.testing.assert_close(rows @ rows.T, torch.eye(16), atol=1e-5, rtol=0)
    data = lab.data(roles.cell)
    chosen = data.select("train", roles.cell.spec["references"])
    images = lab.images(roles.cell, "train", chosen)[lab.labels(roles.cell, "train", chosen) == 3]
    back = BackProjection(model, "hidden2")  # an mlp has no maps: the last tap
    features = model.features(images, "hidden2")
    shown = (back(features) - back(torch.zeros_like(features))).flatten(1).double()
    inside = (shown @ subspaces[3].double().T).square().sum()
    best = torch.linalg.svdvals(shown)[:16].square().sum()  # no 16 rows hold more
    assert inside.item() == pytest.approx(best.item(), rel=1e-4)


def test_the_referee_sees_the_perturbation_alone_at_full_contrast(finished: Finished, lab: Lab):
    cell = tiny.find(finished.plan, "adversarial", "pgd")
    real = lab.images(cell, "test", lab.data(cell).select("test", 10))
    generated = real.clone()
    generated[0, 0, 5, 5] = 1 - generated[0, 0, 5, 5].round()
    change = generated[0, 0, 5, 5] - real[0, 0, 5, 5]
    roles = Roles(cell, lab, {"generated": generated}, Cost(), {})
    chosen = lab.data(cell).select("train", cell.spec["references"])
    ground = lab.images(cell, "train", chosen).flatten().sort().values
    picture = torch.full((2, 1, 28, 28), ground[(len(ground) - 1) // 2].item())
    picture[0, 0, 5, 5] = (picture[0, 0, 5, 5] + change.sign()).clamp(0, 1)
    expected = roles.get("judge")(picture)
    torch.testing.assert_close(roles.get("perturbation_referee_logits")[:2], expected, rtol=1e-4, atol=1e-4)


def test_where_a_suite_allows_no_training_images_there_is_a_reason(finished: Finished, lab: Lab):
    cell = tiny.find(finished.plan, "adversarial", "pgd")
    without = dataclasses.replace(cell, spec=dict(cell.spec) | {"references": 0})
    assert len(training_images(without, lab)["references"]) == 0
    roles = Roles(without, lab, {"generated": torch.zeros(10, 1, 28, 28)}, Cost(), {})
    for name in ("perturbation_referee_logits", "class_subspaces"):
        assert roles.get(name) == Undefined("needs training images, the suite allows none (references: 0)")


# ---- what an inversion is compared with ----------------------------------------------------------------------------


def test_the_subjects_features_are_those_of_its_last_tap_and_nobodys_cost(finished: Finished, lab: Lab):
    cell = tiny.find(finished.plan, "inversion", "pixel_ascent")
    record = finished.store.read(cell.key)
    roles = Roles(cell, lab, stored_tensors(finished.store, cell.key), record.cost, record.notes)
    expected = roles.get("target").features(roles.get("generated"), "penultimate").flatten(1)
    torch.testing.assert_close(roles.get("target_features"), expected, rtol=1e-4, atol=1e-5)
    assert (record.cost.forward_passes, record.cost.backward_passes) == (10 * 10, 10 * 10), "20 passes an image"


@pytest.mark.parametrize(("asked", "given"), [(30, 30), (500, 200)])
def test_training_images_are_some_that_the_subject_saw(finished: Finished, lab: Lab, asked: int, given: int):
    cell = dataclasses.replace(tiny.find(finished.plan, "inversion", "pixel_ascent"), real_images=asked)
    roles = Roles(cell, lab, {}, Cost(), {})
    saw = lab.data(cell).select("train", 200)  # the recipe's images
    known = {image.numpy().tobytes() for image in lab.images(cell, "train", saw)}
    assert len(roles.get("training")) == given
    assert all(image.numpy().tobytes() in known for image in roles.get("training"))
    assert roles.get("training_labels").bincount().tolist() == [given // 10] * 10


def test_nobody_knows_what_public_weights_were_trained_on(finished: Finished, lab: Lab):
    cell = dataclasses.replace(
        tiny.find(finished.plan, "inversion", "pixel_ascent"), subject="resnet18.tv_in1k", subject_key=None
    )
    reason = Undefined("nobody here knows what the public weights of resnet18.tv_in1k were trained on")
    assert Roles(cell, lab, {}, Cost(), {}).get("training") == reason


def test_a_metric_of_a_class_is_given_that_classs_training_images(finished: Finished, lab: Lab):
    plan = finished.plan
    cell = dataclasses.replace(tiny.find(plan, "inversion", "pixel_ascent"), real_images=40)
    shown = training_images_of(cell, lab)
    made = {"generated": torch.stack([images[0] for images in shown.values()])}
    wanted = {stem: Expected(stem, "", "", "") for stem in ("matched_ssim_share40", "matched_ssim_gain")}
    (share, gain), _ = measure(cell, lab, made, wanted, cost=Cost(), notes={})
    assert share.value == 1.0
    assert gain.value is not None and 0 < gain.value < 1


def training_images_of(cell: Cell, lab: Lab) -> dict[int, torch.Tensor]:
    """Class → the first training images of it."""
    places = lab.data(cell).select("train", cell.real_images)
    images, labels = lab.images(cell, "train", places), lab.labels(cell, "train", places)
    return {label: images[labels == label] for label in range(10)}
