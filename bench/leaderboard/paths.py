"""What calculation paths show, one number a line: ``paths.csv``, from the notes of the networks that have gates."""

from typing import Any

import pandas as pd

from bench.leaderboard.lines import Sheet
from bench.leaderboard.schema import Column, Kind, table
from bench.record import Record

PATHS = (
    Column("suite_version", "str", "version of the protocol, raised when any number may change"),
    Column("dataset", "str", "data set"),
    Column("subject", "str", "trained network, as the other tracks call it"),
    Column("method", "str", "how it was trained"),
    Column("variant", "str", "named settings of the method"),
    Column("seed", "Int64", "run seed"),
    Column("layer", "str", "gated layer; empty for the whole network"),
    Column("measure", "str", "what was measured"),
    Column("group", "str", "class, filter or range of layers; empty for all"),
    Column("value", "float64", "empty where it is undefined, as for a class without an image that counts"),
    Column("n", "Int64", "images, classes, pairs or draws that it stands for"),
)
PATH_KINDS: dict[str, Kind] = {column.name: column.kind for column in PATHS}


def paths_frame(sheet: Sheet) -> pd.DataFrame | None:
    """The rows of ``paths.csv`` in the order of the boards; None where no network has paths."""
    rows = [
        {"suite_version": sheet.index.suite_version} | row
        for line in sheet.lines
        for record in line.records
        for row in _rows(record)
    ]
    return table(rows, PATH_KINDS) if rows else None


def _rows(record: Record) -> list[dict[str, Any]]:
    """What the record's note on paths says, and what it says of concepts."""
    note = record.notes.get("paths") or {}
    who = record.identity
    parts = [who.subject, who.dataset, who.method, *([] if who.variant == "default" else [who.variant])]
    common = {
        "dataset": who.dataset,
        "subject": ".".join(parts),
        "method": who.method,
        "variant": who.variant,
        "seed": who.seed,
    }
    lines = [*note.get("rows", ()), *(note.get("concepts") or {}).get("rows", ())]
    return [common | dict(zip(("layer", "measure", "group", "value", "n"), line, strict=True)) for line in lines]
