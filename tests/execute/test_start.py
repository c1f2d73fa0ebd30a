"""Training that starts from a trained network, and networks that come back with other modules than they had."""

import dataclasses
import hashlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from bench import registry
from bench.contract import SetupError
from bench.execute.lab import Lab, subject_folder
from bench.execute.state import todo
from bench.gating import gated_layers
from bench.plan.cells import Cell, Plan, make_plan
from bench.plan.suite import load_suite
from bench.record import Store
from bench.zoo import networks, weights
from tests.execute import tiny
from tests.execute.test_damage import retrain

RECIPE = {"epochs": 1, "batch_size": 32, "warmup_epochs": 0, "images": 200}
START = {**RECIPE, "epochs": 2}
EXTENDING = Path(__file__).with_name("extending.py")
ATTACK = {"conditions": ["linf_51_255"], "methods": ["fgsm"], "images": 4, "budget": 10}


@pytest.fixture(autouse=True)
def _extending() -> None:
    registry.add_plugin(EXTENDING)


def planned(folder: Path, start: Any = START, root: Path | None = None, **changes: Any) -> Plan:
    """The networks of sgd and of the plugin, both trained from ``start``."""
    methods = ["sgd", {"name": "extending", "variant": "as_given"}]
    text = {
        "recipes": {"default": {**RECIPE, "start": start}},
        "referee": None,
        "tracks": {"training": {"subjects": ["mlp"], "methods": methods}},
        **changes,
    }
    return make_plan(load_suite(str(tiny.write_suite(folder, **text))), root)


def weights_of(store: Store, cell: Cell | str) -> dict[str, torch.Tensor]:
    return load_file(subject_folder(store, cell if isinstance(cell, str) else cell.key) / "weights.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- a training before -----------------------------------------------------------------------------------------------


def test_the_start_is_a_training_cell_of_its_own_that_all_methods_of_a_seed_share(tmp_path: Path):
    plan = planned(tmp_path, seeds=[0, 1])
    starts = {cell.key: cell for cell in plan.cells if not cell.wanted}
    assert [cell.seed for cell in starts.values()] == [0, 1] and len(plan.wanted) == 4
    for cell in plan.wanted:
        assert cell.start_key is not None and cell.needs == (cell.start_key,) and cell.spec["start"] == cell.start_key
        assert starts[cell.start_key].seed == cell.seed
        assert cell.spec["recipe"] == starts[cell.start_key].spec["recipe"] | {"epochs": 1}
    assert len({cell.config_digest for cell in plan.wanted if cell.method == "sgd"}) == 1


def test_the_start_is_the_cell_that_another_suite_trains_by_that_recipe(tmp_path: Path):
    plan, plain = planned(tmp_path), tiny.plan_of(tmp_path, recipes={"default": START})
    (start,) = [cell for cell in plan.cells if not cell.wanted]
    assert start.key == tiny.find(plain, "training").key and "start" not in start.spec


def test_training_begins_with_the_weights_of_its_start(tmp_path: Path, store: Store):
    plan = planned(tmp_path)
    records = tiny.run_here(plan.cells, store)
    assert [record.status for record in records] == ["ok"] * 3
    (start,) = [cell for cell in plan.cells if not cell.wanted]
    untouched, trained = (tiny.find(plan, "training", *of) for of in (("extending", "as_given"), ("sgd",)))
    assert_same(weights_of(store, untouched), weights_of(store, start))
    one, other = weights_of(store, trained), weights_of(store, start)
    assert not torch.equal(one["inner.head.weight"], other["inner.head.weight"])


def test_other_weights_of_the_start_make_all_that_began_with_them_run_again(tmp_path: Path, store: Store):
    plan = planned(tmp_path)
    tiny.run_here(plan.cells, store)
    (start,) = [cell for cell in plan.cells if not cell.wanted]
    assert {todo(cell, store, store.read(cell.key)) for cell in plan.cells} == {"nothing"}
    retrain(store, start)
    assert {todo(cell, store, store.read(cell.key)) for cell in plan.wanted} == {"run"}
    assert todo(start, store, store.read(start.key)) == "nothing"


def test_a_run_that_began_with_other_weights_is_not_continued(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
):
    plan = planned(tmp_path)
    begun: list[Path] = []

    class Stop(Exception):
        pass

    def began(path: Path) -> None:
        begun.append(path)
        raise Stop

    (start,) = [cell for cell in plan.cells if not cell.wanted]
    tiny.run_here([start], store)
    monkeypatch.setattr("bench.execute.tracks.FileCheckpoint", began)
    for _ in range(2):
        tiny.run_here([tiny.find(plan, "training", "sgd")], store)
    retrain(store, start)
    tiny.run_here([tiny.find(plan, "training", "sgd")], store)
    assert begun[0] == begun[1] != begun[2]


def test_subjects_are_trained_from_the_start_too(tmp_path: Path):
    plan = planned(tmp_path, tracks={"adversarial": ATTACK})
    (attack,) = plan.wanted
    (subject,) = [cell for cell in plan.cells if cell.key == attack.subject_key]
    assert [cell.key for cell in plan.cells][:2] == [subject.start_key, subject.key]


# ---- public weights --------------------------------------------------------------------------------------------------


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of a network for digits, published as mlp.test with a normalisation of their own."""
    source = networks.untrained("mlp", num_classes=10, image_shape=(1, 28, 28), mean=(0.25,), std=(0.5,), seed=7)
    content = save(source.inner.state_dict())
    (tmp_path / "mlp.safetensors").write_bytes(content)
    monkeypatch.setattr(weights, "_CARDS", dict(weights._CARDS))

    @weights.public(
        name="mlp.test",
        dataset="digits",
        family="mlp",
        path="mlp.safetensors",
        sha256=hashlib.sha256(content).hexdigest(),
        image_shape=(1, 28, 28),
        num_classes=10,
        mean=(0.25,),
        std=(0.5,),
        licence="none",
        source="this test",
    )
    def read(stored: Any) -> Any:
        network = networks.network_card("mlp").build((1, 28, 28), 10)
        weights.fill(network, stored, "the file")
        return network

    return source.state_dict()


def test_public_weights_are_begun_with_and_bring_their_normalisation(
    tmp_path: Path, store: Store, public: dict[str, torch.Tensor]
):
    plan = planned(tmp_path, "mlp.test", root=tmp_path)
    assert all(cell.needs == () for cell in plan.cells) and len(plan.cells) == 2
    lab = Lab(store, tmp_path, torch.device("cpu"))
    records = tiny.run_here(plan.cells, store, lab)
    assert [record.status for record in records] == ["ok"] * 2
    untouched, trained = (tiny.find(plan, "training", *of) for of in (("extending", "as_given"), ("sgd",)))
    assert_same(weights_of(store, untouched), public)
    fine_tuned = weights_of(store, trained)
    assert (fine_tuned["mean"].item(), fine_tuned["std"].item()) == (0.25, 0.5)
    assert not torch.equal(fine_tuned["inner.head.weight"], public["inner.head.weight"])
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    by_hand = networks.network_card("mlp").build((1, 28, 28), 10).eval()
    by_hand.load_state_dict({n.removeprefix("inner."): t for n, t in fine_tuned.items() if n.startswith("inner.")})
    shown = lab.model(trained, "mlp.digits.sgd", trained.key)(images)
    torch.testing.assert_close(shown, by_hand((images - 0.25) / 0.5), rtol=1e-5, atol=1e-6)


def test_the_key_tells_which_weights_training_begins_with(tmp_path: Path, public: dict[str, torch.Tensor]):
    drawn, trained, published = (planned(tmp_path, start, tmp_path) for start in (None, START, "mlp.test"))
    cells = [tiny.find(plan, "training", "sgd") for plan in (drawn, trained, published)]
    assert len({cell.key for cell in cells}) == 3
    assert "start" not in cells[0].spec and "start" not in cells[0].spec["recipe"]
    digest = hashlib.sha256((tmp_path / "mlp.safetensors").read_bytes()).hexdigest()
    assert cells[2].spec["start"] == f"mlp.test@{digest}"


@pytest.mark.parametrize(
    ("start", "changes", "complaint"),
    [
        ("mlp.tset", {}, "no trained network named 'mlp.tset'. Did you mean 'mlp.test'"),
        ("mlp.digits.sgd", {}, "start should be public weights or a training, got the subject mlp.digits.sgd"),
        ("resnet20.akamaster", {}, "resnet20.akamaster takes images of shape (3, 32, 32), a network for (1, 28, 28)"),
        (
            "mlp.test",
            {"tracks": {"training": {"subjects": ["cnn"], "methods": ["sgd"]}}},
            "mlp.test has no block1.0.bias, expected (32,)",
        ),
        ({**START, "method": "sgdd"}, {}, "no method named 'training/sgdd'. Did you mean 'training/sgd'"),
        ({**START, "method": "extending"}, {}, "start of mlp: extending returns a network with other modules"),
        ({**START, "variant": "odd"}, {}, "no variant named 'odd'"),
        ({**START, "start": "mlp.test"}, {}, "recipes.default.start.start: no key named 'start'"),
        ({"method": "sgd"}, {}, "recipes.default.start.epochs: Field required"),
        (5, {}, "recipes.default.start: Input should be a mapping, got 5"),
    ],
)
def test_a_start_that_cannot_be_is_refused_before_the_first_step(
    tmp_path: Path, public: dict[str, torch.Tensor], start: Any, changes: dict[str, Any], complaint: str
):
    with pytest.raises(SetupError, match=re.escape(complaint)):
        planned(tmp_path, start, tmp_path, **changes)


# ---- networks with other modules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subject", "extra"), [("mlp.digits.extending", 1), ("mlp.digits.extending.twice", 2)])
def test_a_subject_with_other_modules_is_looked_into_as_it_was_trained(
    tmp_path: Path, store: Store, subject: str, extra: int
):
    plan = tiny.plan_of(tmp_path, subjects=[subject], referee=None, tracks={"adversarial": ATTACK})
    trained, attack = plan.cells
    lab = Lab(store, None, torch.device("cpu"))
    records = tiny.run_here(plan.cells, store, lab)
    assert [record.status for record in records] == ["ok", "ok"]
    network = lab.model(attack, subject, trained.key).network
    assert len(network) == 1 + extra
    stored = weights_of(store, trained)
    assert {f"inner.{name}" for name in network.state_dict()} == stored.keys() - {"mean", "std"}
    assert all(torch.equal(tensor, stored[f"inner.{name}"]) for name, tensor in network.state_dict().items())


def test_settings_that_only_the_suite_knows_shape_the_network(tmp_path: Path, store: Store):
    method = {"name": "extending", "variant": "thrice", "settings": {"extra": 3}}
    plan = tiny.plan_of(tmp_path, referee=None, tracks={"training": {"subjects": ["mlp"], "methods": [method]}})
    (cell,) = plan.cells
    (record,) = tiny.run_here([cell], store)
    assert record.status == "ok" and not [r.error for r in record.readings if r.status == "failed"]
    assert len(Lab(store, None, torch.device("cpu")).trained(cell, cell.key).inner) == 4


# ---- networks with gates ---------------------------------------------------------------------------------------------


def gated(folder: Path) -> list[Cell]:
    """A training that attaches gates, and an attack on what it made; no metric is taken."""
    registry.add_plugin(Path(__file__).with_name("gating.py"))
    subjects = ["resnet_mini.digits.gating"]
    plan = tiny.plan_of(folder, subjects=subjects, referee=None, tracks={"adversarial": ATTACK})
    return [dataclasses.replace(cell, metrics=()) for cell in plan.cells]


def test_a_network_with_gates_is_looked_into_with_them_and_its_paths_are_noted(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []

    def report(cell: Cell, lab: Lab, network: Any) -> dict[str, Any]:
        asked.append((cell, set(gated_layers(network)), network.training))
        return {"rows": [1]}

    monkeypatch.setattr("bench.execute.tracks.path_report", report)
    trained, attack = gated(tmp_path)
    lab = Lab(store, None, torch.device("cpu"))
    training, looking = tiny.run_here([trained, attack], store, lab)
    assert (training.status, looking.status) == ("ok", "ok"), (training.error, looking.error)
    network = lab.model(attack, attack.subject, trained.key).network
    assert asked == [(trained, {f"inner.{name}" for name in gated_layers(network)}, False)] and len(asked[0][1]) >= 6
    assert training.notes["paths"] == {"rows": [1]} and training.notes["paths_s"] >= 0
    assert "paths_error" not in training.notes and "paths" not in looking.notes


def test_the_path_report_is_no_part_of_the_training_seconds_and_its_fault_costs_no_training(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
):
    clock = time.perf_counter
    late: list[float] = []

    def report(cell: Cell, lab: Lab, network: Any) -> dict[str, Any]:
        late.append(1000.0)
        raise ValueError("no path\nfound")

    monkeypatch.setattr("bench.execute.tracks.time.perf_counter", lambda: clock() + sum(late))
    monkeypatch.setattr("bench.execute.tracks.path_report", report)
    trained, _ = gated(tmp_path)
    (record,) = tiny.run_here([trained], store)
    assert record.status == "ok" and record.notes["paths_error"] == "ValueError: no path"
    assert record.cost.wall_s is not None and record.cost.wall_s < 1000 <= record.notes["paths_s"]


def test_a_network_without_gates_has_no_note_of_paths(tmp_path: Path, store: Store):
    (cell,) = tiny.plan_of(tmp_path, referee=None, tracks={"training": tiny.SUITE["tracks"]["training"]}).cells
    (record,) = tiny.run_here([dataclasses.replace(cell, metrics=())], store)
    assert not {"paths", "paths_s", "paths_error"} & record.notes.keys()
