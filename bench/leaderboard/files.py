"""Boards as files: every one is replaced whole, and the same records give the same bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bench.leaderboard.boards import Boards
from bench.leaderboard.lines import Sample
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
    wide_columns,
)
from bench.record import write_atomic

RESULTS, BRIEF_RESULTS, SCHEMA_FILE, VALUES = "results.csv", "results.min.csv", "schema.json", "values"
CLAIMS_FILE, PATHS_FILE = "claims.csv", "paths.csv"


def write(boards: Boards, folder: Path, *, values: bool = False) -> list[Path]:
    """Write all tables and their sidecars; returns the paths.

    Args:
        folder: made if it is missing; usually ``leaderboards/<board>``.
        values: also the per-unit values and replicates (a release), so that later boards can be compared pair by pair.

    Raises:
        StoreFull: no space left; each file is either as it was or new.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        folder / RESULTS: to_csv(boards.long),
        folder / BRIEF_RESULTS: to_csv(boards.long[BRIEF]),
        folder / SCHEMA_FILE: _json(_schema(boards)),
    }
    for track, frame in boards.wide.items():
        files[folder / f"{track}.csv"] = to_csv(rounded(frame, _decimals(boards.sidecars[track])))
        files[folder / f"{track}.json"] = _json(boards.sidecars[track])
    if boards.claims is not None:
        files[folder / CLAIMS_FILE] = to_csv(boards.claims)
    if boards.paths is not None:
        files[folder / PATHS_FILE] = to_csv(boards.paths)
    if values:
        files |= _values(boards, folder / VALUES)
    for path, data in files.items():
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, data)
    if boards.claims is None:
        (folder / CLAIMS_FILE).unlink(missing_ok=True)  # answers to claims that the suite no longer makes
    if boards.paths is None:
        (folder / PATHS_FILE).unlink(missing_ok=True)
    return list(files)


def load_results(path: Path) -> pd.DataFrame:
    """``results.csv``, from its own path or its folder's, with the types of the schema.

    Raises:
        BoardError: it is missing, has other columns, or holds a number that is not finite.
    """
    return from_csv(path / RESULTS if path.is_dir() else path, KINDS)


def load_board(path: Path) -> pd.DataFrame:
    """One wide ``<track>.csv``; raises as ``load_results``."""
    return from_csv(path)


def load_claims(path: Path) -> pd.DataFrame:
    """``claims.csv``, from its own path or its folder's; raises as ``load_results``."""
    return from_csv(path / CLAIMS_FILE if path.is_dir() else path, CLAIM_KINDS, VERDICT_KINDS)


def load_boards(folder: Path) -> Boards:
    """All that ``write`` put into a folder, values where it has them; raises as ``load_results``."""
    long = load_results(folder)
    tracks = [str(track) for track in sorted(long["track"].unique())]
    sidecars = {track: _load_json(folder / f"{track}.json") for track in tracks}
    return Boards(
        board=folder.name,
        long=long,
        wide={track: load_board(folder / f"{track}.csv") for track in tracks},
        sidecars=sidecars,
        claims=load_claims(folder) if (folder / CLAIMS_FILE).exists() else None,
        paths=from_csv(folder / PATHS_FILE, PATH_KINDS) if (folder / PATHS_FILE).exists() else None,
        samples=lambda cell: _load_samples(folder / VALUES / f"{cell}.safetensors"),
    )


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
    if boards.claims is None:
        return schema
    return schema | {"claims": _described(tuple(one for one in CLAIMS + VERDICT_COLUMNS if one.name in boards.claims))}


def _described(columns: tuple[Column, ...]) -> dict[str, dict[str, str]]:
    return {
        column.name: {"type": column.kind, "meaning": column.meaning} | ({"unit": column.unit} if column.unit else {})
        for column in columns
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BoardError(f"{path} cannot be read: {error}", "make it again with `rank`") from error
    if not isinstance(content, dict):
        raise BoardError(f"{path} should hold an object, got {type(content).__name__}", "make it again with `rank`")
    return content


def _values(boards: Boards, folder: Path) -> dict[Path, bytes]:
    cells = sorted({str(cell) for cell in boards.long["cell_id"] if cell})
    files = {}
    for cell in cells:
        samples = boards.samples(cell)
        if samples:
            arrays = {f"{sample.kind}/{metric}": sample.numbers for metric, sample in sorted(samples.items())}
            files[folder / f"{cell}.safetensors"] = save(arrays)
    return files


def _load_samples(path: Path) -> dict[str, Sample]:
    try:
        arrays = load(path.read_bytes())
    except FileNotFoundError:
        return {}
    except SafetensorError as error:
        raise BoardError(f"{path} cannot be read: {error}", "take it from the release again") from error
    samples = {}
    for name, numbers in arrays.items():
        kind, _, metric = name.partition("/")
        samples[metric] = Sample("units" if kind == "units" else "replicates", numbers)
    return samples
