"""Where records lie."""

import errno
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import save as save_tensors

from bench.record.cells import RECORD, VALUES, check_values, first_line, read_record, read_values, sealed
from bench.record.files import (
    digest_of,
    entries,
    link,
    no_space_is_named,
    plain_name,
    states,
    sync_folder,
    write_atomic,
    write_synced,
)
from bench.record.models import DamagedRecord, Record, StoreError, SuiteIndex

KINDS = ("cells", "subjects", "features", "suites", "damaged", "staging", "replaced")
ABANDONED_AFTER_S = 7 * 24 * 3600.0  # a staging folder of a process that cannot be asked, untouched for so long


@dataclass(frozen=True)
class Problem:
    """A record of a board that could not be used."""

    key: str
    reason: str


@dataclass(frozen=True)
class Leftover:
    """Something that ``gc`` removes."""

    path: Path
    size_bytes: int
    reason: str


@dataclass(frozen=True)
class Store:
    """The folder in which records lie. Every write is a rename of something complete.

    Two processes may use one store at once; who runs which cell is settled by the runner's locks, not here.
    """

    root: Path

    @classmethod
    def create(cls, root: Path) -> Self:
        """The store at ``root``, for writing: folders made, a cell whose replacement was interrupted put back.

        Raises:
            StoreError: it cannot be made or written.
        """
        store = cls(Path(root))
        try:
            for kind in KINDS:
                (store.root / kind).mkdir(parents=True, exist_ok=True)
            store.discard(store.stage("probe"))
        except OSError as error:
            raise StoreError(
                f"store {root} should be a folder that can be written, got: {error.strerror}",
                "name another one with --store, or mend its permissions",
            ) from error
        store._put_back()
        return store

    @classmethod
    def open(cls, root: Path) -> Self:
        """The store at ``root``, for reading; nothing is written.

        Raises:
            StoreError: there is none.
        """
        if not (Path(root) / "cells").is_dir():
            raise StoreError(
                f"no store at {root}: it has no folder 'cells'", "run a suite first, or name it with --store"
            )
        return cls(Path(root))

    # -- reading --

    def cell(self, key: str) -> Path:
        """The folder of the cell's record, whether it exists or not."""
        return self.root / "cells" / plain_name(key, "key")

    def has(self, key: str) -> bool:
        """Whether the cell has a record, sound or not."""
        return (self.cell(key) / RECORD).exists()

    def keys(self) -> list[str]:
        """Keys of all cells with a record, sorted."""
        return sorted(path.parent.name for path in (self.root / "cells").glob(f"*/{RECORD}"))

    def read(self, key: str, *, artifacts: bool = False) -> Record:
        """The record of a cell. Its own digest and that of its values are checked.

        Args:
            artifacts: check the digests of all other files too.

        Raises:
            KeyError: there is no such record.
            DamagedRecord: it cannot be read, is another cell's, or a file does not have its digest.
            StoreError: a newer version wrote it.
        """
        folder = self.cell(key)
        try:
            return read_record(folder, key, artifacts=artifacts)
        except DamagedRecord:
            # The cell may have been replaced between our look at its record and at its values.
            return read_record(folder, key, artifacts=artifacts)

    def values(self, record: Record) -> dict[str, np.ndarray]:
        """Per-unit values and replicates by name, each (n,) float64; empty when the cell has none.

        Raises:
            DamagedRecord: the file is missing, broken, or not the one that the record was written with.
        """
        if VALUES not in record.digests:
            return {}
        return read_values(self.cell(record.key), record.digests[VALUES])

    def records(self, index: SuiteIndex) -> tuple[list[Record], list[Problem]]:
        """The board's records in the order of its plan, and what could not be read. Missing ones are in neither."""
        records, problems = [], []
        for cell in index.cells:
            try:
                record = self.read(cell.key)
                if record.identity != cell.identity:
                    raise DamagedRecord("its identity is not the one in the board's index")
                records.append(record)
            except KeyError:
                continue
            except (DamagedRecord, StoreError) as error:
                problems.append(Problem(cell.key, str(error).splitlines()[0]))
        return records, problems

    # -- writing --

    def stage(self, key: str) -> Path:
        """A fresh folder for the files of a cell that is being run; end it with ``commit`` or ``discard``."""
        name = f"{plain_name(key, 'key')}~{socket.gethostname()}~{os.getpid()}~{secrets.token_hex(4)}"
        staged = self.root / "staging" / name
        with no_space_is_named(staged):
            staged.mkdir()
        return staged

    def commit(self, record: Record, values: Mapping[str, np.ndarray], staged: Path) -> Record:
        """Make the staged folder the cell's, at once and whole; a record that was there before is gone afterwards.

        Args:
            values: what the readings name: each (n,) float64.
            staged: from ``stage``; holds the artifacts, and is gone afterwards, whatever happens.

        Returns:
            The record as written, with the digests of all files.

        Raises:
            ValueError: values and readings do not fit, or the record holds what JSON cannot.
            StoreFull: no space left; the cell is as it was.
        """
        try:
            with no_space_is_named(self.cell(record.key)):
                return self._commit(record, values, staged, known={})
        finally:
            self.discard(staged)

    def rewrite(self, record: Record, values: Mapping[str, np.ndarray]) -> Record:
        """Replace the readings of a cell that exists (after rescoring); its artifacts stay.

        Raises:
            KeyError, DamagedRecord: as ``read``, artifacts included.
            ValueError, StoreFull: as ``commit``.
        """
        old = self.read(record.key, artifacts=True)
        kept = {name: digest for name, digest in old.digests.items() if name not in (RECORD, VALUES)}
        staged = self.stage(record.key)
        try:
            with no_space_is_named(self.cell(record.key)):
                for name in kept:
                    link(self.cell(record.key) / name, staged / name)
                return self._commit(record, values, staged, known=kept)
        finally:
            self.discard(staged)

    def discard(self, staged: Path) -> None:
        """Remove a staged folder; it is no error that it is gone."""
        shutil.rmtree(staged, ignore_errors=True)

    def set_aside(self, key: str, reason: str) -> Path:
        """Move a damaged cell out of the way, with the reason in it; returns where it is now."""
        aside = self.root / "damaged" / f"{plain_name(key, 'key')}~{secrets.token_hex(4)}"
        self.cell(key).rename(aside)
        (aside / "reason.txt").write_text(reason + "\n", encoding="utf-8")
        return aside

    def _commit(self, record: Record, values: Mapping[str, np.ndarray], staged: Path, known: dict[str, str]) -> Record:
        check_values(record, values)
        if values:
            arrays = {name: np.ascontiguousarray(array) for name, array in values.items()}
            write_synced(staged / VALUES, save_tensors(arrays))
        digests = {}
        for path in sorted(path for path in staged.rglob("*") if path.is_file()):
            name = path.relative_to(staged).as_posix()
            digests[name] = known.get(name) or digest_of(path)
        record, data = sealed(record.model_copy(update={"digests": digests}))
        write_synced(staged / RECORD, data)
        sync_folder(staged)
        self._swap_in(staged, self.cell(record.key))
        return record

    def _swap_in(self, staged: Path, cell: Path) -> None:
        """Rename ``staged`` to ``cell``. A kill between two renames leaves the old cell for ``_put_back``."""
        try:
            while not _renamed(staged, cell):
                old = self.root / "replaced" / f"{cell.name}~{secrets.token_hex(4)}"
                with suppress(FileNotFoundError):  # another process was faster
                    cell.rename(old)
        except BaseException:
            self._put_back()
            raise
        sync_folder(cell.parent)
        for old in (self.root / "replaced").glob(f"{cell.name}~*"):
            shutil.rmtree(old, ignore_errors=True)

    def _put_back(self) -> None:
        """Return cells whose replacement was interrupted between its two renames."""
        for old in entries(self.root / "replaced"):
            key = old.name.partition("~")[0]
            with suppress(KeyError, DamagedRecord, StoreError, OSError):  # half removed: it stays for `gc`
                read_record(old, key, artifacts=True)
                _renamed(old, self.cell(key))

    # -- boards --

    def board(self, name: str) -> Path:
        """The folder of a board's index, whether it exists or not."""
        return self.root / "suites" / plain_name(name, "board")

    def boards(self) -> list[str]:
        """Names of the boards that have an index, sorted."""
        return sorted(path.parent.name for path in (self.root / "suites").glob("*/index.json"))

    def write_index(self, index: SuiteIndex) -> None:
        """Keep the index of its board, in place of an earlier one."""
        folder = self.board(index.board)
        with no_space_is_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "index.json", index.model_dump_json(indent=1, by_alias=True).encode())

    def read_index(self, board: str) -> SuiteIndex:
        """The index of a board.

        Raises:
            KeyError: the board has none.
            StoreError: it cannot be read.
        """
        path = self.board(board) / "index.json"
        try:
            return SuiteIndex.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise KeyError(board) from None
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{path} cannot be read: {first_line(error)}", "run the suite again: its index is then written anew"
            ) from error

    # -- housekeeping --

    def size(self) -> dict[str, int]:
        """Bytes on disk by kind of content. Artifacts shared by hard links count for each cell that has them."""
        return {kind: _bytes_below(self.root / kind) for kind in KINDS}

    def gc(self, *, unlisted: bool = False, damaged: bool = False, dry_run: bool = False) -> list[Leftover]:
        """Remove what killed processes left behind, and more when asked.

        Args:
            unlisted: also the cells that no board's index lists.
            damaged: also what was set aside.
            dry_run: only say what would go.

        Raises:
            StoreError: unlisted cells are asked for and an index is missing or broken, so that nobody can tell.
        """
        if not dry_run:
            self._put_back()
        found = [(path, "left by a process that is gone") for path in self._abandoned()]
        found += [(path, "replaced by a newer record") for path in entries(self.root / "replaced")]
        if damaged:
            found += [(path, "set aside as damaged") for path in entries(self.root / "damaged")]
        if unlisted:
            found += [(path, "on no board") for path in self._unlisted()]
        leftovers = [Leftover(path, _bytes_below(path), reason) for path, reason in found]
        if not dry_run:
            for leftover in leftovers:
                shutil.rmtree(leftover.path, ignore_errors=True)
        return leftovers

    def _abandoned(self) -> Iterator[Path]:
        for path in entries(self.root / "staging"):
            _, _, rest = path.name.partition("~")
            host, _, process = rest.partition("~")
            gone = host == socket.gethostname() and not _is_alive(process.partition("~")[0])
            if gone or time.time() - _touched(path) > ABANDONED_AFTER_S:
                yield path

    def _unlisted(self) -> list[Path]:
        boards = self.boards()
        if not boards:
            raise StoreError(f"no board in {self.root} has an index", "without one every cell would be removed")
        listed = {cell.key for board in boards for cell in self.read_index(board).cells}
        return [path for path in entries(self.root / "cells") if path.name not in listed]


def _renamed(source: Path, target: Path) -> bool:
    """Rename a folder, unless there is something at ``target``."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _bytes_below(folder: Path) -> int:
    return sum(state.st_size for state in states(folder) if not stat.S_ISDIR(state.st_mode))


def _touched(folder: Path) -> float:
    """When something in ``folder`` was last written, seconds since the epoch."""
    return max((state.st_mtime for state in states(folder)), default=0.0)


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass  # somebody else's, but there
    return True
