"""The columns of ``results.csv`` and of the wide boards, and how they are read and written as text."""

import difflib
import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

Kind = Literal["str", "float64", "Int64", "boolean"]

TIMED_UNITS = ("ms", "s", "images/s", "MiB", "×")  # what a clock or a memory gauge gave, as in bench.contract


class BoardError(Exception):
    """A board cannot be made or read; shown without a traceback.

    Args:
        message: where, what was expected, what was found.
        hint: what to do, shown on a line of its own.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  {hint}" if hint else message)


def unknown(problem: str, name: str, known: Iterable[str], hint: str) -> BoardError:
    """The error for a name that does not exist, with the nearest ones that do."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return BoardError(f"{problem} Did you mean {' or '.join(map(repr, near))}?" if near else problem, hint)


@dataclass(frozen=True)
class Column:
    """One column of ``results.csv``."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""


def _columns(kind: Kind, *names: str, meaning: str = "version of the library or driver") -> tuple[Column, ...]:
    return tuple(Column(name, kind, meaning) for name in names)


IDENTITY = (
    Column("suite_version", "str", "version of the protocol, raised when any number may change"),
    Column("track", "str", "the question asked"),
    Column("dataset", "str", "data set"),
    Column("split", "str", "part of the data set"),
    Column("subject", "str", "network under test, with the tag of its weights"),
    Column("method", "str", "what was run"),
    Column("condition", "str", "what the task fixes besides the subject"),
    Column("variant", "str", "named settings of the method"),
    Column("method_version", "str", "raised by the author when the method's numbers change"),
    Column("metric", "str", "what was measured, with the feature space"),
    Column("metric_version", "str", "raised when the number changes on equal input"),
    Column("seed", "Int64", "run seed; empty for aggregated rows"),
    Column("aggregate", "str", "'seed': one seed; 'mean': mean over the seeds that have a value"),
)
PLACE = ("dataset", "subject", "condition")  # rows that share it are ranked against each other
VALUE = (
    Column("value", "float64", "full precision; empty unless status is ok"),
    Column("unit", "str", "unit of value, std and the interval"),
    Column("higher_is_better", "boolean", "empty for a metric that never ranks"),
    Column("n_expected", "Int64", "units that should have been scored"),
    Column("n_scored", "Int64", "units that were"),
    Column("n_reference", "Int64", "images of the reference set"),
    Column("n_seeds", "Int64", "seeds that the value stands for"),
    Column("std", "float64", "unbiased, over seeds; empty below two"),
    Column("ci_low", "float64", "low end of the interval"),
    Column("ci_high", "float64", "high end of the interval"),
    Column("ci_level", "float64", "level of the interval"),
    Column("ci_method", "str", "what was drawn anew, and how often"),
    Column("status", "str", "ok, or why there is no value"),
    Column("error", "str", "one line, at most 200 characters"),
)
COST = (
    Column("wall_s", "float64", "the method alone", "s"),
    Column("gpu_s", "float64", "time on the accelerator", "s"),
    Column("gpu_peak_mib", "float64", "largest memory on the accelerator", "MiB"),
    Column("forward_passes", "Int64", "image passes forward through the subject"),
    Column("backward_passes", "Int64", "image passes backward through the subject"),
    Column("n_images", "Int64", "images produced"),
)
CONDITIONS = (
    Column("img_size", "Int64", "side of the subject's input", "pixel"),
    Column("crop_pct", "float64", "share of the side kept by the centre crop"),
    Column("interpolation", "str", "of the resize"),
    Column("antialias", "boolean", "of the resize"),
    Column("batch_size", "Int64", "images computed at once"),
    Column("precision", "str", "of the arithmetic"),
    *_columns("boolean", "deterministic", "cudnn_benchmark", meaning="flag of the run"),
    Column("gpu_name", "str", "accelerator; empty on a processor alone"),
    Column("gpu_count", "Int64", "accelerators used"),
    *_columns("str", "driver", "cuda", "cudnn", "python", "torch", "torchvision", "timm", "numpy"),
    *_columns("str", "scipy", "lpips", "skimage"),
)
PROVENANCE = (
    Column("weights_sha256", "str", "of the subject's weights"),
    Column("data_sha256", "str", "of the images used"),
    Column("config_sha256", "str", "of the resolved settings"),
    Column("metric_sha256", "str", "of the metric's source"),
    Column("artifact_sha256", "str", "of the images produced"),
    Column("code_sha", "str", "commit"),
    Column("code_dirty", "boolean", "whether files differed from the commit"),
    Column("run_id", "str", "the run that made it"),
    Column("cell_id", "str", "key of the record; empty for aggregated rows"),
    Column("started_utc", "str", "ISO 8601"),
    Column("host", "str", "machine"),
    Column("source", "str", "measured, paper or external; only measured rows are ranked"),
    Column("selftest", "str", "pass, fail or skipped: known answers at the start of the run"),
)
COLUMNS = IDENTITY + VALUE + COST + CONDITIONS + PROVENANCE
KINDS: Mapping[str, Kind] = {column.name: column.kind for column in COLUMNS}
UNIQUE = [*(column.name for column in IDENTITY), "config_sha256", "weights_sha256", "source"]
BRIEF = [
    *(column.name for column in IDENTITY),
    *("value", "unit", "higher_is_better", "ci_low", "ci_high", "ci_level", "ci_method", "status", "error"),
]

_ROW = (("subject", "network under test"), ("condition", "what the task fixes"), ("method", "what was run"))
CLAIMS = (
    Column("suite_version", "str", "version of the protocol, raised when any number may change"),
    Column("claim", "str", "what is claimed"),
    Column("source", "str", "who claims it"),
    Column("track", "str", "the question asked"),
    Column("metric", "str", "what was measured, with the feature space"),
    Column("metric_version", "str", "raised when the number changes on equal input"),
    Column("dataset", "str", "data set"),
    *(
        Column(f"{side}_{field}", "str", f"{meaning}, of the row {which}")
        for side, which in (("of", "that should be better"), ("against", "that it is compared with"))
        for field, meaning in (*_ROW, ("variant", "named settings of the method"))
    ),
    Column("control", "str", "method whose value on the same subject and condition is taken off both values"),
    Column("of_value", "float64", "mean over the seeds, and in each the units, that all rows have a value of"),
    Column("against_value", "float64", "the same of the row that it is compared with"),
    Column("difference", "float64", "of_value - against_value"),
    Column("ci_low", "float64", "low end of the difference's interval; not corrected for the number of comparisons"),
    Column("ci_high", "float64", "high end of it"),
    Column("ci_level", "float64", "level of the interval"),
    Column("ci_method", "str", "what was drawn anew, and how often"),
    Column("n_seeds", "Int64", "seeds that are compared"),
    Column("unit", "str", "unit of the values, the difference and the interval"),
    Column("better", "str", "higher or lower"),
    Column("margin", "float64", "what the difference, turned so that larger is better, is held against"),
    Column("verdict", "str", "holds: the interval lies above the margin; fails: below; unclear: else; no value"),
    Column("reason", "str", "why there is no value or no interval, or that seeds are missing"),
)
VERDICT_COLUMNS = (  # only where a suite asks for verdicts
    Column(
        "part",
        "str",
        "of a verdict: 'gain in …' (gains: the difference, turned so that larger is better, lies above the seed spread "
        "and its interval above 0), 'guard' (kept: the difference, turned so, is not below the margin), 'data set' and "
        "'across data sets' (supported, mixed, not supported, or undecided; reason says why); empty elsewhere",
    ),
    Column("seed_spread", "float64", "larger of both rows' standard deviations over the compared seeds, unbiased"),
)
CLAIM_KINDS: Mapping[str, Kind] = {column.name: column.kind for column in CLAIMS}
VERDICT_KINDS: Mapping[str, Kind] = {column.name: column.kind for column in VERDICT_COLUMNS}

WIDE_FRONT: Mapping[str, Kind] = {
    **dict.fromkeys(PLACE, "str"),
    **dict.fromkeys(("rank", "rank_low", "rank_high", "tier"), "Int64"),
    **dict.fromkeys(("method", "variant", "method_version"), "str"),
}
WIDE_BACK: Mapping[str, Kind] = {
    **dict.fromkeys(("n_seeds", "n_ok", "n_cells"), "Int64"),
    **dict.fromkeys(("wall_s", "gpu_peak_mib"), "float64"),
    **dict.fromkeys(("suite_version", "updated_utc"), "str"),
}
_ENDS = ("_ci_low", "_ci_high")
COST_DECIMALS = {"wall_s": 2, "gpu_peak_mib": 1}


def wide_columns(metrics: list[str]) -> dict[str, Kind]:
    """Columns of a wide board in their order: three for each metric.

    Raises:
        BoardError: a metric has the name of another column.
    """
    taken = [name for name in metrics if name in WIDE_FRONT or name in WIDE_BACK or name.endswith(_ENDS)]
    if taken:
        raise BoardError(f"metric {taken[0]!r} has the name of another column of the board", "give it another id")
    names = [f"{metric}{end}" for metric in metrics for end in ("", *_ENDS)]
    return {**WIDE_FRONT, **dict.fromkeys(names, "float64"), **WIDE_BACK}


def table(rows: list[dict[str, Any]], kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Rows as a frame with exactly the columns of ``kinds``; a value that is missing is an empty cell.

    A carriage return in text becomes a line feed: the writers of CSV leave it without quotes, and no reader would
    find the row's end.

    Raises:
        BoardError: a value does not fit its column.
    """
    frame = {}
    for name, kind in kinds.items():
        missing: Any = "" if kind == "str" else np.nan if kind == "float64" else pd.NA
        column = [missing if (value := row.get(name)) is None else value for row in rows]
        try:
            frame[name] = pd.Series([_text(value) for value in column] if kind == "str" else column, dtype=kind)
        except (TypeError, ValueError) as error:
            raise BoardError(f"column {name} should hold {kind}: {str(error).splitlines()[0]}") from error
    return pd.DataFrame(frame)


def _text(value: Any) -> str:
    return str(value).replace("\r\n", "\n").replace("\r", "\n")


def to_csv(frame: pd.DataFrame) -> bytes:
    """UTF-8 without a byte order mark, LF, a newline at the end, numbers in full."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def rounded(frame: pd.DataFrame, decimals: Mapping[str, int]) -> pd.DataFrame:
    """The frame with its numbers as text of fixed decimals; a column without an entry stays as it is."""
    text = frame.copy()
    for name, digits in decimals.items():
        text[name] = [_fixed(value, digits) for value in frame[name]]
    return text


def _fixed(value: float, digits: int) -> str:
    if np.isnan(value):
        return ""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def from_csv(
    path: Path, kinds: Mapping[str, Kind] | None = None, further: Mapping[str, Kind] | None = None
) -> pd.DataFrame:
    """Read what ``to_csv`` wrote: text stays text (``NA``, ``0012345``), an empty number is missing.

    Args:
        path: one that ends in ``.xz`` is unpacked.
        kinds: the columns expected, in order; None for a wide board, whose metrics stand in its head.
        further: columns that some files have after these.

    Raises:
        BoardError: the file is missing, has other columns, or holds a number that is not finite.
    """
    try:
        data = path.read_bytes()
        content = (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
        head = list(pd.read_csv(StringIO(content, newline=""), nrows=0, dtype=str, keep_default_na=False).columns)
    except (OSError, lzma.LZMAError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise BoardError(f"{path} cannot be read: {error}") from error
    kinds = wide_columns(_metrics_in(head)) if kinds is None else kinds
    kinds = {**kinds, **further} if further and set(further) & set(head) else kinds
    if head != list(kinds):
        odd = sorted(set(head) ^ set(kinds)) or ["their order"]
        raise BoardError(f"{path} has other columns than it should: {', '.join(odd)}", "make it again with `rank`")
    try:
        frame = pd.read_csv(
            StringIO(content, newline=""),
            dtype=dict(kinds),
            keep_default_na=False,
            na_values={name: [""] for name, kind in kinds.items() if kind != "str"},
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise BoardError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    for name, kind in kinds.items():
        if kind == "float64" and np.isinf(frame[name]).any():
            raise BoardError(f"{path} has a number in column {name} that is not finite", "make it again with `rank`")
    return frame


def _metrics_in(head: list[str]) -> list[str]:
    middle = [name for name in head if name not in WIDE_FRONT and name not in WIDE_BACK]
    return [name for name in middle if not name.endswith(_ENDS)]
