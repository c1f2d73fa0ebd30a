"""A frozen copy of boards: what it holds, when it is refused, and that later boards are compared with it in pairs."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from bench.leaderboard import (
    BoardError,
    build,
    check_released,
    compare,
    freeze,
    last_release,
    load_board,
    load_boards,
    load_changes,
    load_results,
    open_release,
    release,
    write,
)
from tests.right.making import measured, noise, reading, record, stored, with_samples

VALUES = 0.5 + 0.1 * noise(0, 2, 60)


def publish(folder, made, board="smoke", **changes):
    """A store with one board, which is published; returns the store."""
    store = stored(folder / "store", made, board=board, **changes)
    write(build(store, board), folder / "boards" / board)
    return store


def released(folder, made, version="0.1.0", date="2026-09-01"):
    return freeze(publish(folder, made), folder / "boards", [], version=version, date=date)


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_holds_the_published_tables_and_says_what_they_are(tmp_path):
    made = measured("one", VALUES, provenance={"selftest": "pass", "code_sha": "c" * 40, "code_dirty": False})
    made.append((record("two", status="failed", error="e", provenance={"code_dirty": True}), {}))
    found = released(tmp_path, made)
    assert found.folder == tmp_path / "boards" / "releases" / "v0.1.0"
    facts = found.boards["smoke"]
    assert (facts["suite"], facts["profile"], facts["suite_version"], facts["rows"]) == ("smoke", "cpu", "1.0.0", 5)
    assert facts["cells"] == {"ok": 2, "not ok": 1}
    assert (facts["torch"], facts["commits"]) == (["2.15.0"], ["c" * 40])
    assert facts["cells of commits with local changes"] == [record("two").key]
    assert facts["selftest"] == {"pass": 2, "skipped": 1}
    assert found.content == json.loads((found.folder / "release.json").read_bytes())
    assert set(found.content["files"]) == set(files_in(found.folder)) - {"release.json"}


def test_the_packed_results_are_the_published_ones_byte_for_byte(tmp_path):
    folder = released(tmp_path, measured("one", VALUES)).folder / "smoke"
    plain = (tmp_path / "boards" / "smoke" / "results.csv").read_bytes()
    by_pandas = pd.read_csv(folder / "results.csv.xz", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(by_pandas, pd.read_csv(io.BytesIO(plain), dtype=str, keep_default_na=False))
    pd.testing.assert_frame_equal(load_results(folder), load_results(tmp_path / "boards" / "smoke"))
    pd.testing.assert_frame_equal(
        load_board(folder / "reconstruction.csv"), load_board(tmp_path / "boards" / "smoke" / "reconstruction.csv")
    )


def test_one_store_gives_one_release_byte_for_byte(tmp_path):
    first = files_in(released(tmp_path, measured("one", VALUES)).folder)
    shutil.rmtree(tmp_path / "boards")
    assert files_in(released(tmp_path, measured("one", VALUES)).folder) == first


def test_values_of_many_images_take_little_more_than_two_bytes_each(tmp_path):
    """Values of 256 kinds, as shares of pixels or images are: 20 000 of them."""
    values = np.random.default_rng(0).integers(0, 256, (2, 10_000)) / 256
    folder = released(tmp_path, measured("one", values)).folder / "smoke"
    assert (folder / "values.safetensors.xz").stat().st_size < 2.5 * values.size


def test_a_later_board_is_compared_with_a_release_in_pairs(tmp_path):
    folder = released(tmp_path, measured("one", VALUES)).folder
    shutil.rmtree(tmp_path / "store")
    old = load_boards(folder / "smoke")
    same = compare(old, with_samples(measured("one", VALUES)))
    assert (list(same.differences), same.paired, same.unpaired) == ([], 1, 0)
    (lower,) = compare(old, with_samples(measured("one", VALUES - 0.01))).differences
    assert (lower.kind, lower.paired) == ("worse", True)
    assert (lower.low, lower.high) == pytest.approx((-0.01, -0.01), abs=1e-6)


def test_a_board_without_values_is_released_too(tmp_path):
    folder = released(tmp_path, [(record(readings=[reading(resample="none")]), {})]).folder
    assert load_boards(folder / "smoke").samples(record().key) == {}


def test_replicates_come_back_as_replicates(tmp_path):
    one = reading(10.0, metric="frechet_x", per="set", replicates="r", better="lower", resample="image")
    made = [(record(readings=[one]), {"r": 10 + noise(0, 200)})]
    store = stored(tmp_path / "store", made, primary={"reconstruction": "frechet_x"})
    write(build(store, "smoke"), tmp_path / "boards" / "smoke")
    folder = freeze(store, tmp_path / "boards", ["smoke"], version="0.1.0", date="2026-09-01").folder
    sample = load_boards(folder / "smoke").samples(record().key)["frechet_x"]
    assert (sample.kind, sample.numbers.dtype) == ("replicates", np.float64)
    np.testing.assert_allclose(sample.numbers, 10 + noise(0, 200), rtol=1e-6)


# ---- what is refused -----------------------------------------------------------------------------------------------


def refused(folder, store, names=(), version="0.1.0"):
    """What a wrong request is told; it leaves nothing behind."""
    before = files_in(folder)
    with pytest.raises(BoardError) as told:
        freeze(store, folder / "boards", names, version=version, date="2026-09-01")
    assert files_in(folder) == before
    return str(told.value)


def test_a_release_is_never_made_twice(tmp_path):
    store = publish(tmp_path, measured("one", VALUES))
    freeze(store, tmp_path / "boards", [], version="0.1.0", date="2026-09-01")
    assert "exists, and a release is never changed\n  give a higher version" in refused(tmp_path, store)


@pytest.mark.parametrize("version", ["1", "0.1", "v0.1.0", "0.1.0-rc1", "../0.1.0", "", "0.01.0", "٠.١.٠"])
def test_a_version_is_three_numbers(tmp_path, version):
    store = publish(tmp_path, measured("one", VALUES))
    assert "version should be three numbers" in refused(tmp_path, store, version=version)


def test_only_what_was_published_is_released(tmp_path):
    store = publish(tmp_path, measured("one", VALUES))
    assert "publish it first: run_bench.py rank other" in refused(tmp_path, store, ["smoke", "other"])
    stored(tmp_path / "store", measured("one", VALUES - 0.01))
    told = refused(tmp_path, store)
    assert "is not what the store" in told and "publish it first: run_bench.py rank smoke" in told


def test_a_board_of_another_store_is_refused(tmp_path):
    publish(tmp_path, measured("one", VALUES))
    other = stored(tmp_path / "other", measured("one", VALUES), board="else")
    assert "no board 'smoke' in the store" in refused(tmp_path, other)


def test_what_was_measured_while_the_selftest_failed_is_refused_by_name(tmp_path):
    store = publish(tmp_path, measured("one", VALUES[:1], provenance={"selftest": "fail"}))
    assert f"1 cells were measured while the selftest failed: {record('one').key}" in refused(tmp_path, store)


def test_a_file_that_was_not_released_is_found(tmp_path):
    """A plain table would be read in place of the packed one, whose digest is checked."""
    folder = released(tmp_path, measured("one", VALUES)).folder
    shutil.copy(tmp_path / "boards" / "smoke" / "results.csv", folder / "smoke")
    with pytest.raises(BoardError, match=r"results\.csv was not released"):
        open_release(folder)


def test_no_board_is_written_into_a_release(tmp_path):
    folder = released(tmp_path, measured("one", VALUES)).folder
    before = files_in(folder)
    for name in ("smoke", "other"):
        with pytest.raises(BoardError, match=r"v0\.1\.0 is a release, and never changed"):
            write(with_samples(measured("one", VALUES - 0.1)), folder / name)
    assert files_in(folder) == before


def test_a_release_that_does_not_say_its_boards_is_refused(tmp_path):
    (tmp_path / "release.json").write_text(json.dumps({"schema": 1, "version": "0.1.0", "files": {}}))
    with pytest.raises(BoardError, match="does not say: boards, date"):
        open_release(tmp_path)


def test_of_two_processes_one_makes_the_release_and_it_is_whole(tmp_path, monkeypatch):
    store = publish(tmp_path, measured("one", VALUES))
    filled = release._partial

    def overtaken(*request):
        monkeypatch.undo()
        partial = filled(*request)
        freeze(store, tmp_path / "boards", [], version="0.1.0", date="2026-09-02")
        return partial

    monkeypatch.setattr(release, "_partial", overtaken)
    with pytest.raises(BoardError, match="exists, and a release is never changed"):
        freeze(store, tmp_path / "boards", [], version="0.1.0", date="2026-09-01")
    assert last_release(tmp_path / "boards").content["date"] == "2026-09-02"
    assert [path.name for path in (tmp_path / "boards" / "releases").iterdir()] == ["v0.1.0"]


def test_a_file_in_place_of_the_folder_of_releases_is_told(tmp_path):
    store = publish(tmp_path, measured("one", VALUES))
    (tmp_path / "boards" / "releases").write_text("mine")
    assert "no release can be written to" in refused(tmp_path, store)


@pytest.mark.parametrize("change", ["another", "missing"])
def test_a_release_that_was_changed_is_found(tmp_path, change):
    folder = released(tmp_path, measured("one", VALUES)).folder
    check_released(folder / "smoke")
    path = folder / "smoke" / "reconstruction.csv"
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    for look in (
        lambda: open_release(folder),
        lambda: check_released(folder),
        lambda: check_released(folder / "smoke"),
    ):
        with pytest.raises(BoardError, match=r"reconstruction\.csv is"):
            look()


def test_the_last_release_has_the_highest_version(tmp_path):
    with pytest.raises(BoardError, match=r"make one: run_bench\.py release VERSION"):
        last_release(tmp_path / "boards")
    store = publish(tmp_path, measured("one", VALUES))
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        freeze(store, tmp_path / "boards", [], version=version, date="2026-09-01")
    assert last_release(tmp_path / "boards").version == "0.10.0"


# ---- changes.csv ---------------------------------------------------------------------------------------------------


def test_what_a_release_changes_of_the_one_before_is_logged(tmp_path):
    released(tmp_path, measured("one", VALUES))
    path = tmp_path / "boards" / "changes.csv"
    assert not path.exists(), "the first release changes nothing"
    released(tmp_path, [*measured("one", VALUES[:1] - 0.25), *measured("two", VALUES[:1])], "0.2.0", "2026-10-01")
    changes = load_changes(path)
    rows = {row["cell_id"]: row for row in changes.to_dict("records")}
    keys = [record("one", 0).key, record("one", 1).key, record("two", 0).key]
    assert [rows[key]["action"] for key in keys] == ["rescore", "remove", "add"]
    first = rows[keys[0]]
    assert first["new_value"] - first["old_value"] == pytest.approx(-0.25)
    assert first["reason"] == "ssim: v0.2.0 after v0.1.0, board smoke" and first["date"] == "2026-10-01"
    released(tmp_path, [*measured("one", VALUES[:1] - 0.25), *measured("two", VALUES[:1])], "0.3.0")
    pd.testing.assert_frame_equal(load_changes(path), changes)


def test_what_cannot_be_logged_is_not_released(tmp_path):
    released(tmp_path, measured("one", VALUES))
    store = publish(tmp_path, measured("one", VALUES - 0.25))
    (tmp_path / "boards" / "changes.csv").write_text("something else\n")
    assert "changes.csv has other columns" in refused(tmp_path, store, version="0.2.0")


def test_a_release_that_was_killed_after_its_changes_were_logged_is_made_again(tmp_path, monkeypatch):
    released(tmp_path, measured("one", VALUES))
    store = publish(tmp_path, measured("one", VALUES - 0.25))

    def killed(*request):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(release, "_appear", killed)
        with pytest.raises(KeyboardInterrupt):
            freeze(store, tmp_path / "boards", [], version="0.2.0", date="2026-10-01")
    assert last_release(tmp_path / "boards").version == "0.1.0"
    freeze(store, tmp_path / "boards", [], version="0.2.0", date="2026-10-02")
    assert list(load_changes(tmp_path / "boards" / "changes.csv")["date"]) == ["2026-10-02", "2026-10-02"]


def test_a_board_that_is_named_twice_is_released_and_logged_once(tmp_path):
    released(tmp_path, measured("one", VALUES))
    store = publish(tmp_path, measured("one", VALUES - 0.25))
    freeze(store, tmp_path / "boards", ["smoke", "smoke"], version="0.2.0", date="2026-10-01")
    assert len(load_changes(tmp_path / "boards" / "changes.csv")) == len(VALUES)
