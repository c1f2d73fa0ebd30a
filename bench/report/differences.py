"""What changed between two boards, for a terminal."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from bench.leaderboard import Difference

STYLES = {"worse": "bold red", "better": "green", "unclear": "yellow", "conditions": "cyan", "added": "dim"}


def print_differences(differences: Sequence[Difference], console: Console) -> None:
    """One line a difference: what it is, where, why; then how many of each kind."""
    for one in differences:
        place = " · ".join(part for part in (*one.line, one.metric) if part) or "all lines"
        line = Text(f"{one.kind:<10}", style=STYLES[one.kind])
        console.print(line.append(f" {place}: {one.reason}", style=""), soft_wrap=True)
    counts = Counter[str](one.kind for one in differences)
    console.print(Text(", ".join(f"{counts[kind]} {kind}" for kind in STYLES if counts[kind]) or "no difference"))
