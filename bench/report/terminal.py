"""Boards and single records in a terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.leaderboard import Boards
from bench.record import Reading, Record
from bench.report import view
from bench.report.verdicts import ACROSS, Verdicts, verdicts

_VERDICTS = {"holds": "green", "fails": "bold red", "unclear": "yellow", "no value": "red"}
_JUDGED = {"supported": "green", "mixed": "yellow", "not supported": "bold red", "undecided": "dim"}
_HEAD, _METHOD = 10, 26  # characters: a head's before it is folded, a method's before it gives way
_ENDS = 3  # values that a long list is shown by, of its start and of its end
_ROOM = 3  # columns that a table spends on each of its own besides the text


def print_boards(boards: Boards, console: Console) -> None:
    """One table a group, the tracks one after the other; below each track what has no result, with its reason.

    Metrics besides the one that ranks are shown as far as the console is wide. Last, what the suite claims, and what
    the records answer; then its verdicts.
    """
    for track in view.tracks(boards):
        console.print(Text(f"\n{track.name} — {track.summary}", style="bold"))
        for line in track.notes:
            console.print(Text(line))
        for group in track.groups:
            console.print(_table(group, console.width))
            for row in group.lines:
                if row.note:
                    console.print(Text(f"  no rank: {row.method}: {row.note}", style="dim"))
        for style, heading, lines in (("yellow", "note", track.warnings), ("red", "no result", track.failures)):
            for line in lines:
                console.print(Text(f"{heading}: {line}", style=style))
    _print_claims(view.claims(boards), console)
    _print_verdicts(verdicts(boards), console)


def _print_claims(claims: view.Claims, console: Console) -> None:
    if not claims.claims:
        return
    console.print(Text(f"\nclaims — {claims.summary}", style="bold"))
    for claim in claims.claims:
        source = f" ({claim.source})" if claim.source else ""
        console.print(Text(f"\n{claim.claim}{source}").append(f"\n{claim.rule}: {claim.counts}", style="dim"))
        lines = Table.grid(padding=(0, 2))
        for answer in claim.answers:
            lines.add_row(Text(answer.verdict, style=_VERDICTS[answer.verdict]), Text(_said(answer), overflow="fold"))
        console.print(lines)


def _print_verdicts(found: Verdicts, console: Console) -> None:
    if not found.devices:
        return
    console.print(Text(f"\nverdicts — {found.summary}", style="bold"))
    if len(found.devices) > 1:
        console.print(_glance(found))
    for device in found.devices:
        source = f" ({device.source})" if device.source else ""
        console.print(Text(f"\n{device.claim}{source}").append(f"\n{device.rule}", style="dim"))
        lines = Table.grid(padding=(0, 2))
        for one in device.judgements:
            said = Text("\n".join([f"{one.place}: {one.reason}", *one.numbers]), overflow="fold")
            lines.add_row(Text(one.verdict, style=_JUDGED[one.verdict]), said)
        console.print(lines)


def _glance(found: Verdicts) -> Table:
    """A line a claim, a column a data set."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("claim", *found.datasets, ACROSS):
        table.add_column(Text(name), overflow="fold")
    for device in found.devices:
        said = [device.on(name) for name in (*found.datasets, "")]
        table.add_row(Text(device.claim), *(Text(verdict, style=_JUDGED.get(verdict, "")) for verdict in said))
    return table


def _said(answer: view.Answer) -> str:
    place = f"{answer.place}: " if answer.place else ""
    values = f": {answer.values}, {answer.difference}, {answer.seeds} seeds" if answer.values else ""
    reason = f"; {answer.reason}" if answer.reason else ""
    return f"{place}{answer.of} against {answer.against}, {answer.metric}{values}{reason}"


def _table(group: view.Group, width: int) -> Table:
    table = Table(title=Text(group.title), title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    columns = _columns(group, width)
    for name, texts in columns:
        if name == "method":  # the only one that gives way where the console is narrow
            table.add_column(Text(name), overflow="fold", min_width=12)
        else:
            table.add_column(Text(name), justify="right", overflow="fold", width=_width(name, texts))
    for cells in zip(*(texts for _, texts in columns), strict=True):
        table.add_row(*map(Text, cells))
    return table


def _width(name: str, texts: list[str]) -> int:
    """Numbers on one line; a long head is folded over them."""
    return max(min(len(name), _HEAD), *map(len, texts))


def _columns(group: view.Group, width: int) -> list[tuple[str, list[str]]]:
    """Head and cells of each column; other metrics only while there is room for their numbers."""
    lines = group.lines
    front = [
        ("rank", [line.rank for line in lines]),
        ("tier", [line.tier for line in lines]),
        ("method", [line.method for line in lines]),
        (group.primary, [line.primary for line in lines]),
    ]
    back = [("seeds", [line.seeds for line in lines]), ("wall s", [line.wall_s for line in lines])]
    left = width - sum(_ROOM + min(_METHOD, _width(name, texts)) for name, texts in front + back)
    others = []
    for place, name in enumerate(group.others):
        texts = [line.others[place] for line in lines]
        left -= _ROOM + _width(name, texts)
        if left < 0:
            break
        others.append((name, texts))
    return front + others + back


def show(record: Record, console: Console) -> None:
    """Everything one record says, for a person."""
    who = record.identity
    method = f"{who.method} ({who.variant})"
    place = (who.track, who.dataset, who.subject, who.condition, method, f"seed {who.seed}")
    console.print(Text(" · ".join(filter(None, place)), style="bold"))
    console.print(Text(f"key {record.key}, status {record.status}{': ' + record.error if record.error else ''}"))
    for heading, content in (
        ("settings", record.settings),
        ("cost", record.cost.model_dump(exclude_none=True)),
        ("conditions", record.conditions),
        ("provenance", record.provenance),
        ("notes", record.notes),
        ("files", record.digests),
    ):
        if heading == "cost":
            _print_pairs(console, "readings", {reading.metric: _reading(reading) for reading in record.readings})
        _print_pairs(console, heading, content)


def _print_pairs(console: Console, heading: str, content: Mapping[str, Any]) -> None:
    if not content:
        return
    console.print(Text(f"\n{heading}", style="bold"))
    longest = max(map(len, content))
    for name, value in content.items():
        for place, line in enumerate(_lines(value)):
            console.print(Text(f"  {name if place == 0 else '':<{longest}}  {line}"), soft_wrap=True)


def _lines(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping) and value:
        return [f"{name}: {_in_one_line(item)}" for name, item in value.items()]
    return str(value).splitlines() or [""]


def _in_one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_one_line(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        parts = [_in_one_line(item) for item in value]
        if len(parts) > 2 * _ENDS:  # a curve, such as the loss of every step
            return f"{len(parts)} values [{', '.join([*parts[:_ENDS], '…', *parts[-_ENDS:]])}]"
        return f"[{', '.join(parts)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _reading(reading: Reading) -> str:
    if reading.value is None or reading.status != "ok":
        return f"{reading.status}: {reading.error}"
    better = "" if reading.better == "neither" else f", {reading.better} is better"
    count = f", n = {reading.n_scored}" if reading.n_scored is not None else ""
    return f"{reading.value:.{reading.decimals}f} {reading.unit}{better}{count}, version {reading.metric_version}"
