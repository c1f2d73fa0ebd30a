"""``data/<board>.js``: all that stands behind the rows of a board, small enough to load at the first question.

Numbers are whole multiples of a metric's last digit, intervals are told as distances from the value, what rows share is
written once, and the whole is compressed; ``glassbench.js`` undoes it. Nothing in base64 can end a script.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.leaderboard import PLACE, Boards, row_settings
from bench.report.site.gallery import Gallery
from bench.report.site.rows import NAME, Number, Row, Track, decimals

# What is the same for most rows of a board; the rest of provenance differs from cell to cell.
SHARED = (
    *("suite_version", "split", "code_sha", "code_dirty", "source", "selftest", "precision", "deterministic"),
    *("cudnn_benchmark", "gpu_name", "gpu_count", "driver", "cuda", "cudnn", "python", "torch", "torchvision", "timm"),
    *("numpy", "scipy", "lpips", "skimage", "img_size", "crop_pct", "interpolation", "antialias", "batch_size"),
    *("data_sha256", "method_version"),
)
DIGEST = 12  # digits of weights that a reader can tell apart; results.csv has them all
COST = ("forward_passes", "backward_passes", "gpu_peak_mib", "n_images")


def board_script(boards: Boards, tracks: Sequence[Track], gallery: Gallery) -> str:
    """The one call that hands the board over, as plain script: it can be read from disk by an inserted <script>."""
    first = next(iter(boards.sidecars.values()), {})
    content = {
        "board": boards.board,
        **{name: first.get(name) for name in ("suite", "profile", "suite_version", "protocol")},
        "gallery": [gallery.before, gallery.between, gallery.thumbnail],
        "tracks": {track.name: _Encoder(boards, track, gallery).content() for track in tracks},
    }
    return f'glassbench.board("{base64.b64encode(zlib.compress(_dumps(content).encode(), 9)).decode()}");\n'


def artifacts_of(boards: Boards) -> dict[str, str]:
    """Key of a cell → digest of what its method made, for all cells that have a record."""
    seeds = boards.long[boards.long["aggregate"] == "seed"].drop_duplicates("cell_id").sort_values("cell_id")
    return dict(zip(map(str, seeds["cell_id"]), map(str, seeds["artifact_sha256"]), strict=True))


class _Encoder:
    """One track; equal parts of rows are listed once and named by their place in that list."""

    def __init__(self, boards: Boards, track: Track, gallery: Gallery) -> None:
        self._track, self._gallery = track, gallery
        self._sidecar = boards.sidecars[track.name]
        seeds = boards.long[(boards.long["track"] == track.name) & (boards.long["aggregate"] == "seed")]
        self._cells = _by_row(seeds)
        self._none = seeds.iloc[:0]
        self._values = {(cell, metric): value for cell, metric, value in _triples(seeds)}
        self._curves = _curves(boards, track.name)
        self._listed: dict[str, dict[str, int]] = {"shared": {}, "settings": {}, "weights": {}}

    def content(self) -> dict[str, Any]:
        rows = [self._row(place, row) for place, group in enumerate(self._track.groups) for row in group.rows]
        keys = ("metric", "unit", "better", "decimals", "version", "resample", "n_scored", "n_reference")
        return {
            "metrics": [[card.get(key) for key in keys] for card in self._track.metrics.values()],
            "groups": [[*(group.rows[0].name[key] for key in PLACE), group.primary] for group in self._track.groups],
            **{name: [json.loads(text) for text in listed] for name, listed in self._listed.items()},
            "rows": rows,
        }

    def _row(self, group: int, row: Row) -> list[Any]:
        """In the order in which ``glassbench.decode`` reads it."""
        names = tuple(row.name[key] for key in NAME)
        cells = self._cells.get(names, self._none)
        keys = [str(key) for key in cells["cell_id"]]
        shared = {name: found for name in SHARED if (found := _values(cells[name]))}
        return [
            *(row.id, group, row.name["method"], row.name["variant"]),
            *(row.rank, row.rank_low, row.rank_high, row.tier, int(row.is_reference), int(row.gate_overridden)),
            row.reason,
            self._numbers(row),
            self._seeds(row, cells),
            [row.wall_s and round(row.wall_s, 2), *(_mean(cells[name]) for name in COST), row.n_ok, row.n_cells],
            self._place("settings", _settings(self._sidecar, row)),
            self._place("shared", shared),
            [
                self._place("weights", str(digest)[:DIGEST])
                for digest in dict.fromkeys(cells["weights_sha256"])
                if digest
            ],
            max((str(started) for started in cells["started_utc"]), default=""),
            " ".join(key[: self._gallery.digits] for key in keys),
            [int(seed) for seed in cells["seed"]],
            [[kind, place] for place, key in enumerate(keys) for kind in self._gallery.kinds.get(key, ())],
            [place for place, key in enumerate(keys) if key in self._gallery.later],
            list(row.failed),
            self._curves.get(names),
        ]

    def _place(self, name: str, content: Any) -> int | None:
        if content is None:
            return None
        listed = self._listed[name]
        return listed.setdefault(_dumps(content), len(listed))

    def _numbers(self, row: Row) -> str:
        return ",".join(
            _packed(row.numbers.get(metric), decimals(self._track, metric)) for metric in self._track.metrics
        )

    def _seeds(self, row: Row, cells: pd.DataFrame) -> str:
        digits = decimals(self._track, row.primary)
        found = [
            f"{seed} {_whole(value, digits)}"
            for seed, cell in zip(cells["seed"], cells["cell_id"], strict=True)
            if not pd.isna(value := self._values.get((cell, row.primary)))
        ]
        return ",".join(found)


Names = tuple[str, ...]


def _by_row(cells: pd.DataFrame) -> dict[Names, pd.DataFrame]:
    """Names of a row → its cells, one line each, by seed."""
    each = cells.drop_duplicates("cell_id").sort_values(["seed", "cell_id"])
    return {tuple(map(str, names)): lines for names, lines in each.groupby(list(NAME), sort=False)}


def _settings(sidecar: Mapping[str, Any], row: Row) -> dict[str, Any] | None:
    """What a row was run with; None where the board does not say, as one that an older version made."""
    blocks = row_settings(sidecar, row.name)
    if not blocks:
        return None
    if len(blocks) == 1:
        return _told(blocks[0])
    return {f"seeds {', '.join(map(str, block['seeds']))}": _told(block) for block in blocks}


def _told(block: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the method, then what the task gave; both may have a name such as ``batch_size``."""
    own = block.get("settings", {})
    given = {name: value for name, value in block.items() if name not in ("settings", "seeds")}
    return {**own, **{f"{name} of the task" if name in own else name: value for name, value in given.items()}}


def _curves(boards: Boards, track: str) -> dict[Names, dict[str, str]]:
    """Names of a row → metric → hundredths, in equal steps over the share of pixels."""
    if boards.curves is None:
        return {}
    found: dict[Names, dict[str, str]] = {}
    ordered = boards.curves[boards.curves["track"] == track].sort_values([*NAME, "metric", "share"])
    for (*names, metric), points in ordered.groupby([*NAME, "metric"], sort=False):
        if points["value"].isna().any():  # drawn, a point that is missing would look like one that was measured
            continue
        numbers = " ".join(str(_whole(value, 2)) for value in points["value"])
        found.setdefault(tuple(map(str, names)), {})[str(metric)] = numbers
    return found


def _values(column: pd.Series) -> str:
    """What the cells of a row say, each answer once."""
    return ", ".join(dict.fromkeys(str(value) for value in column if not pd.isna(value) and value != ""))


def _packed(number: Number | None, digits: int) -> str:
    if number is None:
        return ""
    value = _whole(number.value, digits)
    if number.low is None or number.high is None:
        return str(value)
    return f"{value} {value - _whole(number.low, digits)} {_whole(number.high, digits) - value}"


def _whole(number: float, digits: int) -> int:
    return round(number * 10.0**digits)


def _triples(seeds: pd.DataFrame) -> Iterable[tuple[str, str, float]]:
    return zip(seeds["cell_id"], seeds["metric"], seeds["value"], strict=True)


def _dumps(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _mean(column: pd.Series) -> float | None:
    found = column.dropna()
    return None if found.empty else round(float(found.mean()), 1)
