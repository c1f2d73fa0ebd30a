"""Boards as files: every one is replaced whole, and the same records give the same bytes."""

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bench.leaderboard.boards import Boards, Samples
from bench.leaderboard.curves import CURVE_DECIMALS, CURVE_KINDS, CURVES
from bench.leaderboard.lines import Sample, samples_of
from bench.leaderboard.paths import PATH_KINDS, PATH_MEASURES, PATHS
from bench.leaderboard.schema import (
    BRIEF,
    CLAIM_KINDS,
    CLAIMS,
    COLUMNS,
    COST_DECIMALS,
    KINDS,
    VERDICT_COLUMNS,
    VERDICT_KINDS,
    BoardError,
    Column,
    from_csv,
    rounded,
    to_csv,
    unknown,
    wide_columns,
)
from bench.record import DamagedRecord, Store, StoreError, write_atomic

RESULTS, BRIEF_RESULTS, SCHEMA_FILE = "results.csv", "results.min.csv", "schema.json"
CLAIMS_FILE, PATHS_FILE, CURVES_FILE = "claims.csv", "paths.csv", "curves.csv"
RELEASE_FILE = "release.json"  # beside the boards of a release
XZ = ".xz"
VALUES = f"values.safetensors{XZ}"
_LONG = (RESULTS, PATHS_FILE, CURVES_FILE)  # a release packs them


def write(boards: Boards, folder: Path, *, values: bool = False) -> list[Path]:
    """Write all tables and their sidecars; returns the paths.

    Args:
        folder: made if it is missing; usually ``leaderboards/<board>``.
        values: also the per-unit values and replicates, so that later boards can be compared pair by pair.

    Raises:
        BoardError: the folder is in a release, which is never changed.
        StoreFull: no space left; each file is either as it was or new.
    """
    if (folder.parent / RELEASE_FILE).exists():
        raise BoardError(f"{folder.parent} is a release, and never changed", "give another folder")
    files = tables(boards)
    if values:
        files[VALUES] = packed_values(boards)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)
    for name in {CLAIMS_FILE, PATHS_FILE, CURVES_FILE, VALUES} - set(files):
        (folder / name).unlink(missing_ok=True)  # of earlier boards, which said or measured something else
    return [folder / name for name in files]


def tables(boards: Boards) -> dict[str, bytes]:
    """Name → content of the files of a board, without its values."""
    files = {
        RESULTS: to_csv(boards.long),
        BRIEF_RESULTS: to_csv(boards.long[BRIEF]),
        SCHEMA_FILE: to_json(_schema(boards)),
    }
    for track, frame in boards.wide.items():
        files[f"{track}.csv"] = to_csv(rounded(frame, _decimals(boards.sidecars[track])))
        files[f"{track}.json"] = to_json(boards.sidecars[track])
    if boards.claims is not None:
        files[CLAIMS_FILE] = to_csv(boards.claims)
    if boards.paths is not None:
        files[PATHS_FILE] = to_csv(boards.paths)
    if boards.curves is not None:
        files[CURVES_FILE] = to_csv(rounded(boards.curves, CURVE_DECIMALS))
    return files


def frozen(boards: Boards) -> dict[str, bytes]:
    """The same for a release: long tables packed, the brief one left out, the values with them."""
    files = {
        name + XZ if name in _LONG else name: lzma.compress(data) if name in _LONG else data
        for name, data in tables(boards).items()
        if name != BRIEF_RESULTS
    }
    return files | {VALUES: packed_values(boards)}


def load_results(path: Path) -> pd.DataFrame:
    """``results.csv``, or a release's ``results.csv.xz``, from its own path or its folder's, with its types.

    Raises:
        BoardError: it is missing, has other columns, or holds a number that is not finite.
    """
    return from_csv(_plain_or_packed(path / RESULTS) if path.is_dir() else path, KINDS)


def load_board(path: Path) -> pd.DataFrame:
    """One wide ``<track>.csv``; raises as ``load_results``."""
    return from_csv(path)


def load_claims(path: Path) -> pd.DataFrame:
    """``claims.csv``, from its own path or its folder's; raises as ``load_results``."""
    return from_csv(path / CLAIMS_FILE if path.is_dir() else path, CLAIM_KINDS, VERDICT_KINDS)


def load_boards(folder: Path, store: Store | None = None) -> Boards:
    """All that ``write`` or a release put into a folder; raises as ``load_results``, and where files do not fit.

    Args:
        store: where per-unit values are looked up by the key of a cell, when the folder has none of its own.
    """
    long = load_results(folder)
    metrics = _load_json(folder / SCHEMA_FILE).get("metrics", {})
    if not isinstance(metrics, dict):
        raise BoardError(
            f"{folder / SCHEMA_FILE}: metrics should be an object, got {type(metrics).__name__}",
            "make it again with `rank`",
        )
    tracks = sorted(metrics)  # also those that no cell has a record of
    sidecars = {track: _load_json(folder / f"{track}.json") for track in tracks}
    wide = {track: load_board(folder / f"{track}.csv") for track in tracks}
    if not set(long["track"]) <= set(tracks):
        raise BoardError(f"{folder / SCHEMA_FILE} and {RESULTS} are not of one board", "make them again with `rank`")
    for track in tracks:
        _check_fit(folder / track, wide[track], sidecars[track])
    paths, curves = (_plain_or_packed(folder / name) for name in (PATHS_FILE, CURVES_FILE))
    boards = Boards(
        board=folder.name,
        long=long,
        wide=wide,
        sidecars=sidecars,
        claims=load_claims(folder) if (folder / CLAIMS_FILE).exists() else None,
        paths=from_csv(paths, PATH_KINDS) if paths.exists() else None,
        curves=from_csv(curves, CURVE_KINDS) if curves.exists() else None,
    )
    if (folder / VALUES).exists():
        return replace(boards, samples=_samples_in(folder / VALUES))
    return boards if store is None else replace(boards, samples=_samples_of(store, long))


def is_board(folder: Path) -> bool:
    """Whether ``load_boards`` finds a board there."""
    return _plain_or_packed(folder / RESULTS).is_file()


def boards_in(place: Path) -> dict[str, Path]:
    """Name → folder of the board that ``place`` is, or of the boards in it; empty where there is none."""
    if is_board(place):
        place = place if place.name else place.resolve()  # "." has no name
        return {place.name: place}
    return {path.name: path for path in sorted(place.glob("*")) if is_board(path)}


def folders_of(place: Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """The same, of all boards or of those that are asked for, in their order.

    Raises:
        BoardError: there is none, or none of an asked name.
    """
    found = boards_in(place)
    if not found:
        there = "has no results.csv" if place.is_dir() else "is not a folder"
        hint = "name leaderboards/<suite>, leaderboards, or a release; boards are made by: run_bench.py rank"
        raise BoardError(f"no board in {place}: it {there}", hint)
    for name in names:
        if name not in found:
            raise unknown(f"no board named {name!r} in {place}.", name, found, f"there are: {', '.join(found)}")
    return {name: found[name] for name in names or found}


def _plain_or_packed(path: Path) -> Path:
    packed = path.with_name(path.name + XZ)
    return packed if packed.exists() and not path.exists() else path


def _decimals(sidecar: Mapping[str, Any]) -> dict[str, int]:
    return {
        **{
            f"{metric['metric']}{end}": metric["decimals"]
            for metric in sidecar["metrics"]
            if "decimals" in metric
            for end in ("", "_ci_low", "_ci_high")
        },
        **COST_DECIMALS,
    }


def _schema(boards: Boards) -> dict[str, Any]:
    """Types and units of the columns, unit and direction of the metrics, meaning of what paths are measured by."""
    schema = {
        "results": _described(COLUMNS),
        "board": wide_columns(["<metric>"]),
        "metrics": {track: list(side["metrics"]) for track, side in boards.sidecars.items()},
    }
    if boards.paths is not None:
        schema |= {"paths": _described(PATHS), "path_measures": PATH_MEASURES}
    if boards.curves is not None:
        schema |= {"curves": _described(CURVES)}
    if boards.claims is None:
        return schema
    return schema | {"claims": _described(tuple(one for one in CLAIMS + VERDICT_COLUMNS if one.name in boards.claims))}


def _described(columns: tuple[Column, ...]) -> dict[str, dict[str, str]]:
    return {
        column.name: {"type": column.kind, "meaning": column.meaning} | ({"unit": column.unit} if column.unit else {})
        for column in columns
    }


def to_json(content: Mapping[str, Any]) -> bytes:
    """Readable, and the same bytes for the same content."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BoardError(f"{path} cannot be read: {error}", "make it again with `rank`") from error
    if not isinstance(content, dict):
        raise BoardError(f"{path} should hold an object, got {type(content).__name__}", "make it again with `rank`")
    return content


def _check_fit(path: Path, frame: pd.DataFrame, sidecar: Mapping[str, Any]) -> None:
    """A table and its sidecar are of one board: a process killed between two files leaves others."""
    try:
        places = {(group["dataset"], group["subject"], group["condition"]) for group in sidecar["groups"]}
        metrics = [metric["metric"] for metric in sidecar["metrics"]]
    except (KeyError, TypeError):
        places, metrics = set(), []
    there = set(frame[["dataset", "subject", "condition"]].itertuples(index=False, name=None))
    if there != places or list(frame.columns) != list(wide_columns(metrics)):
        raise BoardError(f"{path}.csv and {path}.json are not of one board", "make them again with `rank`")


# ---- values --------------------------------------------------------------------------------------------------------


def packed_values(boards: Boards) -> bytes:
    """Per-unit values and replicates of all cells, ``<cell>/<kind>/<metric>`` → float32: half the room, and an error
    far below every tolerance.
    """
    arrays = {}
    for cell in sorted({str(cell) for cell in boards.long["cell_id"] if cell}):
        for metric, sample in sorted(boards.samples(cell).items()):
            arrays[f"{cell}/{sample.kind}/{metric}"] = sample.numbers.astype(np.float32)
    return lzma.compress(save(arrays))


def _samples_in(path: Path) -> Samples:
    """From a file of values, which is read when the first cell is asked for."""

    @cache
    def cells() -> dict[str, dict[str, Sample]]:
        try:
            arrays = load(lzma.decompress(path.read_bytes()))
        except (OSError, lzma.LZMAError, SafetensorError) as error:
            raise BoardError(f"{path} cannot be read: {error}", "take it from the release again") from error
        found: dict[str, dict[str, Sample]] = {}
        for name, numbers in arrays.items():
            cell, kind, metric = name.split("/", 2)
            sample = Sample("units" if kind == "units" else "replicates", numbers.astype(np.float64))
            found.setdefault(cell, {})[metric] = sample
        return found

    return lambda cell: cells().get(cell, {})


def _samples_of(store: Store, long: pd.DataFrame) -> Samples:
    """From records, where they still say what the table says: a cell may have been run again since."""
    seeds = long[long["aggregate"] == "seed"]
    published = dict(zip(zip(seeds["cell_id"], seeds["metric"], strict=True), seeds["value"], strict=True))

    def samples(cell: str) -> dict[str, Sample]:
        try:
            record = store.read(cell)
            found = samples_of(record, store.values(record))
        except (KeyError, DamagedRecord, StoreError):
            return {}
        same = {one.metric for one in record.readings if one.value == published.get((cell, one.metric))}
        return {metric: sample for metric, sample in found.items() if metric in same}

    return samples
