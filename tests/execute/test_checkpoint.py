"""Training that is cut off goes on where it was, and ends at the same weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench import ops, registry
from bench.contract import Recipe
from bench.execute.checkpoint import FileCheckpoint
from bench.execute.lab import subject_folder
from bench.plan.cells import Plan
from bench.record import Store
from tests import toys
from tests.execute import tiny
from tests.execute.conftest import Finished

STATE = {
    "step": 7,
    "rate": 0.1,
    "name": "sgd",
    "nothing": None,
    "flag": True,
    "pairs": [1, [2.5, torch.arange(3)]],
    "optimiser": {"state": {0: {"momentum": torch.tensor([[1.5, -2.0]])}, 1: {"scalar": torch.tensor(3.0)}}},
    "half": torch.ones(2, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}


class Cut(FileCheckpoint):
    """Pulls the plug once it has saved so many times."""

    def __init__(self, path: Path, saves: int | None = None) -> None:
        super().__init__(path)
        self.saves, self.saved = saves, 0

    def save(self, state: Mapping[str, Any]) -> None:
        super().save(state)
        self.saved += 1
        if self.saved == self.saves:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _save_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "SAVE_EVERY_SECONDS", -1.0)


def train(method: str, checkpoint: FileCheckpoint | None, **recipe: Any) -> nn.Module:
    task = toys.toy_training_task()
    with_dropout = nn.Sequential(task.network.block1, task.network.block2, task.network.hidden)
    network = nn.Sequential(with_dropout, nn.Dropout(0.2), task.network.head)
    recipe = {"epochs": 3, "batch_size": 16, "augment": "shift4_flip"} | recipe
    task = task.replace(network=network, recipe=Recipe(**recipe), checkpoint=checkpoint)
    return registry.make_method(f"training/{method}").train(task)


def bits(network: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


# ---- the file ------------------------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was(tmp_path: Path):
    checkpoint = FileCheckpoint(tmp_path / "unfinished.safetensors")
    assert checkpoint.load() is None
    checkpoint.save(STATE)
    loaded = checkpoint.load()
    assert loaded is not None and loaded.keys() == STATE.keys()
    assert torch.equal(loaded["optimiser"]["state"][0]["momentum"], torch.tensor([[1.5, -2.0]]))
    assert loaded["optimiser"]["state"][1]["scalar"].shape == ()
    assert loaded["half"].dtype == torch.bfloat16 and loaded["empty"].shape == (0, 4)
    assert torch.equal(loaded["pairs"][1][1], torch.arange(3))
    assert [loaded[name] for name in ("step", "rate", "name", "nothing", "flag")] == [7, 0.1, "sgd", None, True]


def test_what_cannot_be_kept_is_refused_and_the_old_state_stays(tmp_path: Path):
    checkpoint = FileCheckpoint(tmp_path / "unfinished.safetensors")
    checkpoint.save({"step": 1})
    with pytest.raises(TypeError, match="tensors, numbers and text, not Generator"):
        checkpoint.save({"step": 2, "generator": torch.Generator()})
    assert checkpoint.load() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished.safetensors"]


DAMAGE = {
    "cut off": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "one bit in a tensor": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "one letter in its words": lambda data: data.replace(b"momentum", b"momentim"),
    "something else": lambda data: b"PK\x03\x04" + data,
    "no words": lambda data: b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_removed_and_training_starts_anew(tmp_path: Path, kind: str):
    checkpoint = FileCheckpoint(tmp_path / "unfinished.safetensors")
    checkpoint.save(STATE)
    data = checkpoint.path.read_bytes()
    damaged = DAMAGE[kind](data)
    assert damaged != data
    checkpoint.path.write_bytes(damaged)
    assert checkpoint.load() is None
    assert not checkpoint.path.exists()


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 8, 17])
@pytest.mark.parametrize(("method", "recipe"), [("sgd", {"ema": 0.9}), ("adamw", {"label_smoothing": 0.1})])
def test_training_cut_off_at_any_step_ends_at_the_same_weights(tmp_path: Path, method: str, recipe: Any, cut: int):
    path = tmp_path / "unfinished.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(method, Cut(path, saves=cut), **recipe)
    rest = Cut(path)
    continued = train(method, rest, **recipe)
    assert rest.saved == 3 * 6 - cut, "it has gone on, not started anew"
    assert bits(continued) == bits(train(method, None, **recipe))


def test_a_training_cell_cut_off_leaves_no_record_and_ends_at_the_same_weights(
    plan: Plan, store: Store, finished: Finished, monkeypatch: pytest.MonkeyPatch
):
    cell = tiny.find(plan, "training")
    cut = Cut(subject_folder(store, cell.key) / "unfinished.safetensors", saves=4)
    monkeypatch.setattr("bench.execute.tracks.FileCheckpoint", lambda path: cut)
    with pytest.raises(KeyboardInterrupt):
        tiny.run_here([cell], store)
    assert store.keys() == [] and list((store.root / "staging").iterdir()) == []
    assert [path.name for path in cut.path.parent.iterdir()] == ["unfinished.safetensors"]
    cut.saves = None
    (record,) = tiny.run_here([cell], store)
    assert cut.saved == 6
    assert not cut.path.exists()
    assert tiny.numbers(record, store) == tiny.numbers(finished.store.read(cell.key), finished.store)


def test_what_a_process_killed_while_writing_left_beside_the_weights_is_swept_away(plan: Plan, store: Store):
    cell = tiny.find(plan, "training")
    folder = subject_folder(store, cell.key)
    folder.mkdir(parents=True)
    for name in (".weights.safetensors.x1y2", "unfinished.4711.tmp"):
        (folder / name).write_bytes(b"half")
    tiny.run_here([cell], store)
    assert [path.name for path in folder.iterdir()] == ["weights.safetensors"]


def test_the_seconds_of_earlier_sittings_are_kept(tmp_path, monkeypatch):
    clock = iter([100.0, 130.0, 500.0, 512.0, 900.0])
    monkeypatch.setattr("bench.execute.checkpoint.time.perf_counter", lambda: next(clock))
    path = tmp_path / "unfinished.safetensors"
    FileCheckpoint(path).save({"step": 1})  # 100 to 130
    second = FileCheckpoint(path)
    assert second.load() == {"step": 1}
    assert second.seconds_before == 30.0
    second.save({"step": 2})  # 500 to 512
    third = FileCheckpoint(path)
    third.load()
    assert third.seconds_before == 42.0
