"""What each row of a board was made with, from its records: the part ``settings`` of the board's sidecar."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.leaderboard.lines import Line
from bench.leaderboard.schema import PLACE
from bench.record import Record

Block = dict[str, Any]
SPEC = ("budget", "images", "batch_size", "references", "recipe", "training_images")  # where the record has them


def settings_of(lines: Sequence[Line]) -> list[Block]:
    """A block for each method and variant that has a record; several, each with its ``rows``, where rows differ.

    A row whose seeds differ, which should not be, stands in several blocks, with the seeds of each.
    """
    found: dict[tuple[str, str], dict[str, tuple[Block, list[Block]]]] = {}  # method, variant → text → block, its rows
    for line in lines:
        blocks = found.setdefault((line.key.method, line.key.variant), {})
        made: dict[str, list[int]] = {}
        for record in line.records:
            block = _block(record)
            text = json.dumps(block, sort_keys=True)
            blocks.setdefault(text, (block, []))
            made.setdefault(text, []).append(record.identity.seed)
        for text, seeds in made.items():
            blocks[text][1].append(_place(line) | ({"seeds": sorted(set(seeds))} if len(made) > 1 else {}))
    return [
        {"method": method, "variant": variant} | block | ({"rows": rows} if len(blocks) > 1 else {})
        for (method, variant), blocks in sorted(found.items())
        for block, rows in blocks.values()
    ]


def row_settings(sidecar: Mapping[str, Any], row: Mapping[str, Any]) -> list[Block]:
    """The blocks of one row: one, unless its seeds differ (then each has ``seeds``) or its method has no record.

    Args:
        row: a line of the wide board, or anything else with its data set, subject, condition, method and variant.
    """
    found = []
    for entry in sidecar.get("settings", ()):
        if (entry["method"], entry["variant"]) != (row["method"], row["variant"]):
            continue
        block = {name: value for name, value in entry.items() if name not in ("method", "variant", "rows")}
        own = [place for place in entry.get("rows", [{}]) if all(place.get(n, row[n]) == row[n] for n in PLACE)]
        found += [block | ({"seeds": place["seeds"]} if "seeds" in place else {}) for place in own]
    return found


def _place(line: Line) -> Block:
    group = line.key.group
    return {"dataset": group.dataset, "subject": group.subject, "condition": group.condition}


def _block(record: Record) -> Block:
    named = {name: record.spec[name] for name in SPEC if record.spec.get(name) is not None}
    start = {"start": _start(record.spec["start"])} if "start" in record.spec else {}
    return {name: _safe(value) for name, value in ({"settings": record.settings} | named | start).items()}


def _start(named: str) -> str:
    """The name of public weights; that of a training cell is its key, another one for each seed."""
    name, at, _ = named.partition("@")
    return name if at else "a training of its own"


def _safe(value: Any) -> Any:
    """The value with numbers that JSON does not know as text."""
    if isinstance(value, Mapping):
        return {str(name): _safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
