"""The store: whole or absent, digests checked, nothing lost to a kill or a full disk."""

import errno
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bench.record import DamagedRecord, Identity, Reading, Record, Store, StoreError, StoreFull
from bench.record import store as store_module
from tests.right.making import index_of, reading, record

VALUES = {"ssim": np.array([0.25, np.nan, 0.75])}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def commit(store: Store, one: Record, values=None, artifacts=(("artifacts/log.txt", b"a log"),)) -> Record:
    staged = store.stage(one.key)
    for name, data in artifacts:
        (staged / name).parent.mkdir(exist_ok=True)
        (staged / name).write_bytes(data)
    return store.commit(one, values or {}, staged)


def full() -> Record:
    return record(readings=[reading(values="ssim")], notes={"gate": {"accuracy": 0.9}, "curve": [1.0, 2.0]})


# ---- round trip ----------------------------------------------------------------------------------------------------


def test_what_is_committed_is_read(store):
    written = commit(store, full(), VALUES)
    read = store.read(written.key, artifacts=True)
    assert read == written
    np.testing.assert_array_equal(store.values(read)["ssim"], VALUES["ssim"])
    assert (store.cell(read.key) / "artifacts" / "log.txt").read_bytes() == b"a log"
    assert store.has(read.key) and store.keys() == [read.key]


def test_digests_are_those_of_the_files(store):
    written = commit(store, full(), VALUES)
    folder = store.cell(written.key)
    for name in ("artifacts/log.txt", "values.safetensors"):
        told = subprocess.run(["sha256sum", folder / name], capture_output=True, text=True, check=True).stdout
        assert told.split()[0] == written.digests[name]


def test_a_cell_that_is_not_there_is_a_key_error(store):
    assert not store.has("nothing")
    with pytest.raises(KeyError, match="nothing"):
        store.read("nothing")


def test_a_record_without_values_has_none(store):
    assert store.values(commit(store, record(status="failed", error="out of luck"))) == {}


def test_staging_is_empty_after_a_commit(store):
    commit(store, full(), VALUES)
    assert list((store.root / "staging").iterdir()) == []


def test_a_commit_replaces_an_earlier_record(store):
    commit(store, record(status="failed", error="first"))
    commit(store, record(status="ok"), artifacts=())
    assert store.read(record().key).status == "ok"
    assert not (store.cell(record().key) / "artifacts").exists()
    assert list((store.root / "replaced").iterdir()) == []


def test_rewriting_keeps_artifacts_and_changes_readings(store):
    written = commit(store, full(), VALUES)
    other = written.model_copy(update={"readings": (reading(0.1, metric="psnr", values="psnr"),)})
    again = store.rewrite(other, {"psnr": np.array([0.1])})
    read = store.read(again.key, artifacts=True)
    assert [one.metric for one in read.readings] == ["psnr"]
    assert list(store.values(read)) == ["psnr"]
    assert read.digests["artifacts/log.txt"] == written.digests["artifacts/log.txt"]


def test_rewriting_does_not_bless_a_damaged_artifact(store):
    written = commit(store, full(), VALUES)
    (store.cell(written.key) / "artifacts" / "log.txt").write_bytes(b"another")
    with pytest.raises(DamagedRecord, match=r"log\.txt does not have the digest"):
        store.rewrite(written, VALUES)


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros(2, dtype=np.float32)])
def test_values_of_other_shape_or_type_are_refused(store, array):
    with pytest.raises(ValueError, match=r"values 'ssim' should be \(n,\) float64"):
        commit(store, full(), {"ssim": array})
    assert not store.has(full().key)


def test_a_reading_that_names_no_values_is_refused(store):
    with pytest.raises(ValueError, match="reading ssim names values 'ssim', which are not given"):
        commit(store, full(), {})


def test_what_json_cannot_hold_is_refused(store):
    with pytest.raises(ValueError, match="object"):
        commit(store, record(notes={"odd": object()}))
    assert not store.has(record().key)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "<b>", "a" * 200])
def test_names_that_are_no_folder_are_refused(store, name):
    with pytest.raises(StoreError, match="cannot be the name of a folder"):
        store.cell(name)
    with pytest.raises(StoreError, match="cannot be the name of a folder"):
        store.board(name)


# ---- damage --------------------------------------------------------------------------------------------------------


def change(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is not a record"),
        (lambda path: path.write_bytes(b""), "is not a record"),
        (lambda path: change(path, b'"status": "ok"', b'"status": "fine"'), "status: Input should be"),
        (lambda path: change(path, b'"value": 0.5', b'"value": 0.9'), "changed after it was written"),
        (lambda path: change(path, b'"record.json": "', b'"record.json": "f'), "changed after it was written"),
        (lambda path: change(path, b'"key": "rec', b'"key": "xec'), "belongs to cell xec"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    ],
)
def test_a_spoilt_record_is_damaged(store, spoil, reason):
    written = commit(store, full(), VALUES)
    spoil(store.cell(written.key) / "record.json")
    with pytest.raises(DamagedRecord, match=reason):
        store.read(written.key)


def test_spoilt_values_are_damaged(store):
    written = commit(store, full(), VALUES)
    path = store.cell(written.key) / "values.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    for look in (lambda: store.read(written.key), lambda: store.values(written)):
        with pytest.raises(DamagedRecord, match="digest in its record"):
            look()


def test_missing_values_are_damaged(store):
    written = commit(store, full(), VALUES)
    (store.cell(written.key) / "values.safetensors").unlink()
    for look in (lambda: store.read(written.key), lambda: store.values(written)):
        with pytest.raises(DamagedRecord, match="cannot be read"):
            look()


def test_artifacts_are_checked_when_asked(store):
    written = commit(store, full(), VALUES)
    (store.cell(written.key) / "artifacts" / "log.txt").write_bytes(b"a bog")
    assert store.read(written.key) == written
    with pytest.raises(DamagedRecord, match=r"log\.txt"):
        store.read(written.key, artifacts=True)


def test_a_newer_schema_is_not_taken_for_damage(store):
    written = commit(store, record(schema_number=99))
    with pytest.raises(StoreError, match=r"schema 99, this version reads up to 1\n  update"):
        store.read(written.key)


def test_what_is_set_aside_is_out_of_the_way_with_its_reason(store):
    written = commit(store, full(), VALUES)
    aside = store.set_aside(written.key, "spoilt")
    assert not store.has(written.key)
    assert aside.parent == store.root / "damaged"
    assert (aside / "reason.txt").read_text() == "spoilt\n"
    commit(store, full(), VALUES)
    assert store.set_aside(written.key, "again") != aside


def test_a_board_is_read_as_far_as_it_can_be(store):
    good, bad, other, absent = (record(name) for name in ("good", "bad", "other", "absent"))
    for one in (good, bad, other):
        commit(store, one)
    (store.cell(bad.key) / "record.json").write_text("{")
    index = index_of([bad, absent, good, other])
    mistaken = index.cells[3].model_copy(update={"identity": absent.identity})
    index = index.model_copy(update={"cells": (*index.cells[:3], mistaken)})
    records, problems = store.records(index)
    assert [one.key for one in records] == [good.key]
    assert [one.key for one in problems] == [bad.key, other.key]
    assert "is not a record" in problems[0].reason and "identity" in problems[1].reason


# ---- a full disk, a kill -------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_written_cell(store):
    """``/dev/full`` refuses every byte, as a full disk does."""
    one = full()
    staged = store.stage(one.key)
    (staged / "values.safetensors").symlink_to("/dev/full")
    with pytest.raises(StoreFull, match=r"no space left for .*\n  make space"):
        store.commit(one, VALUES, staged)
    assert not store.has(one.key) and not staged.exists()
    commit(store, one, VALUES)
    assert store.read(one.key).status == "ok"


def fails_at(call: int, function):
    """``function`` with its ``call``-th call ending in a full disk."""
    calls = iter(range(1, 1000))

    def wrapped(*args):
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*args)

    return wrapped


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["write_synced", "sync_folder", "_renamed"])
def test_a_disk_that_fills_up_at_any_step_leaves_the_old_cell(store, monkeypatch, name, call):
    old = commit(store, full(), VALUES)
    newer = full().model_copy(update={"error": "newer"})
    with monkeypatch.context() as patch:
        patch.setattr(store_module, name, fails_at(call, getattr(store_module, name)))
        try:
            commit(store, newer, VALUES)
            failed = False
        except StoreFull:
            failed = True
    assert list((store.root / "staging").iterdir()) == []
    read = store.read(old.key, artifacts=True)
    # Once the folder has its name the cell is the new one, even if the disk could not confirm it.
    swapped_in = not failed or (name == "sync_folder" and call == 2)
    assert read.error == ("newer" if swapped_in else "")


def test_an_index_on_a_full_disk_is_as_it_was(store, monkeypatch):
    index = index_of([record()])
    store.write_index(index)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails_at(1, os.fsync))
        with pytest.raises(StoreFull):
            store.write_index(index.model_copy(update={"suite_version": "2.0.0"}))
    assert store.read_index("smoke") == index
    assert [path.name for path in store.board("smoke").iterdir()] == ["index.json"]


def test_a_kill_between_the_two_renames_loses_nothing(store, monkeypatch):
    old = commit(store, full(), VALUES)

    class Killed(BaseException):
        pass

    def killed(source: Path, target: Path) -> bool:
        if target.exists():
            return False
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_renamed", killed)
        patch.setattr(Store, "_put_back", lambda self: None)  # a killed process tidies nothing
        patch.setattr(Store, "discard", lambda self, staged: None)
        with pytest.raises(Killed):
            commit(store, full(), VALUES)
    assert not store.has(old.key)
    again = Store.create(store.root)
    assert again.read(old.key, artifacts=True) == old


def test_many_writers_of_one_cell_leave_one_whole_record(store):
    script = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from bench.record import Store
from tests.right.making import record
store = Store(Path(sys.argv[1]))
for turn in range(15):
    one = record(notes={"writer": "w" * 1000, "turn": turn})
    staged = store.stage(one.key)
    (staged / "artifact.txt").write_text("x" * 1000)
    store.commit(one, {}, staged)
"""
    root = str(Path(__file__).parents[2])
    writers = [subprocess.Popen([sys.executable, "-c", script, str(store.root), root]) for _ in range(3)]
    while any(writer.poll() is None for writer in writers):
        if store.has(record().key):
            with suppress(KeyError):  # between two renames
                store.read(record().key)
        time.sleep(0.005)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert store.read(record().key, artifacts=True).notes["turn"] == 14


# ---- opening -------------------------------------------------------------------------------------------------------


def test_a_store_under_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        StoreError, match=r"should be a folder that can be written, got: Not a directory\n  name another"
    ):
        Store.create(tmp_path / "file" / "store")


def test_a_store_that_refuses_writes_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match="got: Permission denied"):
        Store.create(tmp_path / "store")


def test_opening_what_is_no_store_is_a_clear_error(tmp_path):
    with pytest.raises(StoreError, match=r"no store at .*\n  run a suite first"):
        Store.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- boards and housekeeping ---------------------------------------------------------------------------------------


def test_an_index_is_read_as_written(store):
    index = index_of([record("a"), record("b", is_reference=True)], notes={"n": 1})
    store.write_index(index)
    assert store.read_index("smoke") == index
    assert store.boards() == ["smoke"]


def test_a_board_without_an_index_is_a_key_error(store):
    with pytest.raises(KeyError, match="nothing"):
        store.read_index("nothing")


def test_a_broken_index_is_a_clear_error(store):
    store.write_index(index_of([]))
    (store.board("smoke") / "index.json").write_text("{}")
    with pytest.raises(StoreError, match=r"index\.json cannot be read: suite: Field required"):
        store.read_index("smoke")


def test_size_counts_bytes_by_kind(store):
    commit(store, full(), VALUES)
    sizes = store.size()
    files = [path for path in store.cell(full().key).rglob("*") if path.is_file()]
    assert sizes["cells"] == sum(path.stat().st_size for path in files)
    assert sizes["subjects"] == 0


def test_gc_takes_what_dead_processes_left_and_nothing_else(store):
    commit(store, full(), VALUES)
    in_use = store.stage("in_use")
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = in_use.with_name(in_use.name.replace(f"~{os.getpid()}~", f"~{dead.pid}~"))
    left.mkdir()
    (left / "part").write_bytes(b"12345")
    elsewhere = left.with_name("key~another-host~1~aaaa")
    elsewhere.mkdir()
    found = store.gc(dry_run=True)
    assert [(one.path, one.size_bytes) for one in found] == [(left, 5)]
    assert left.exists()
    store.gc()
    assert not left.exists() and in_use.exists() and elsewhere.exists() and store.has(full().key)


def test_gc_takes_what_another_host_left_a_week_ago(store, monkeypatch):
    elsewhere = store.root / "staging" / "key~another-host~1~aaaa"
    elsewhere.mkdir()
    monkeypatch.setattr(time, "time", lambda: elsewhere.stat().st_mtime + 8 * 24 * 3600)
    store.gc()
    assert not elsewhere.exists()


def test_gc_takes_unlisted_and_damaged_cells_only_when_asked(store):
    listed, unlisted, spoilt = (commit(store, record(name)) for name in ("listed", "unlisted", "spoilt"))
    store.write_index(index_of([listed]))
    store.set_aside(spoilt.key, "spoilt")
    assert store.gc() == []
    assert {one.reason for one in store.gc(unlisted=True, damaged=True)} == {"on no board", "set aside as damaged"}
    assert store.keys() == [listed.key] and not store.has(unlisted.key)
    assert store.size()["damaged"] == 0


def test_gc_refuses_to_take_cells_when_nobody_can_tell_which(store):
    commit(store, record())
    with pytest.raises(StoreError, match="no board"):
        store.gc(unlisted=True)
    store.write_index(index_of([]))
    (store.board("smoke") / "index.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        store.gc(unlisted=True)
    assert store.has(record().key)


def test_old_records_with_unknown_fields_stay_readable():
    one = Reading.model_validate(reading().model_dump() | {"field_of_tomorrow": 1})
    assert one == reading()
    assert isinstance(record().identity, Identity)
