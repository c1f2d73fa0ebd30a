"""What changed between two boards, and what a night's run found, for a terminal."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from bench.leaderboard import Comparison, Difference, Judgement

STYLES = {"worse": "bold red", "better": "green", "unclear": "yellow", "conditions": "cyan", "added": "dim"}
_SHOWN = 3  # metrics named in a line


def print_comparison(found: Comparison, console: Console) -> None:
    """One line a difference: what it is, where, why; then how many of each kind, and how they were compared.

    Conditions are said once, with how much they keep from being compared.
    """
    for one in found.differences:
        if one.kind != "conditions":
            _print(one.kind, STYLES[one.kind], f"{_place(one)}: {one.reason}", console)
    print_conditions(found, console)
    console.print(Text(f"{found.board}: {_counts(found)}"), soft_wrap=True)


def print_conditions(found: Comparison, console: Console) -> None:
    """``conditions changed: torch 2.14 → 2.15``, and the numbers that are not compared for it."""
    refused = [one for one in found.differences if one.kind == "conditions"]
    for reason in dict.fromkeys(one.reason for one in refused):
        metrics = [one.metric for one in refused if one.reason == reason]
        numbers = f"{len(metrics)} numbers not compared ({_some(metrics)})" if any(metrics) else "nothing compared"
        _print("refused", STYLES["conditions"], f"{reason}: {numbers}", console)


def print_judgement(judgement: Judgement, console: Console) -> None:
    """The alarms of a night's board, what a rerun did not confirm, changed conditions, and counts."""
    for one in judgement.alarms:
        _print("ALARM", STYLES["worse"], f"{_place(one)}: {one.reason}", console)
    for one in judgement.not_confirmed:
        _print("chance", STYLES["unclear"], f"{_place(one)}: {one.reason}, not confirmed by a rerun", console)
    print_conditions(judgement.comparison, console)
    alarms = f"{len(judgement.alarms)} alarms" if len(judgement.alarms) != 1 else "1 alarm"
    counts = f"{judgement.comparison.board}: {alarms}; {_counts(judgement.comparison)}"
    console.print(Text(counts), soft_wrap=True)


def _print(word: str, style: str, text: str, console: Console) -> None:
    console.print(Text(f"{word:<10}", style=style).append(f" {text}", style=""), soft_wrap=True)


def _place(one: Difference) -> str:
    return " · ".join(part for part in (*one.line, one.metric) if part) or "all lines"


def _some(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:_SHOWN]) + (f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else "")


def _counts(found: Comparison) -> str:
    counts = Counter[str](one.kind for one in found.differences)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in STYLES if counts[kind]) or "no difference"
    return f"{kinds}; paired: {found.paired}, unpaired: {found.unpaired}, without units: {found.single}"
