"""Cards of metrics: all that a reader should know before citing a number, for a screen and as a page.

Everything comes from the card in the decorator and from the docstring: its first line and what follows it say how the
number is made, the lines "Source:", "Differs:" and "Beware:" where it comes from and when it misleads.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bench import registry
from bench.contract import TRACKS, MetricCard, SetupError, Unsupported
from bench.zoo.foundations import judge_card, judge_names

Facts = list[tuple[str, str]]  # what → text; paragraphs and formulas on lines of their own

WIDTH = 120
EVERYWHERE = (*registry.PROJECT_PACKAGES, "numpy", "torch", *sys.stdlib_module_names)  # imports that need no word
SECTIONS = ("Args", "Returns", "Raises")
LABELS = ("Source", "Differs", "Beware")
BETTER = {"higher": "higher is better", "lower": "lower is better", "neither": "never ranked"}
RESAMPLED = {"image": "images", "class": "classes"}
COMMAND = "run_bench.py list metrics --markdown > metrics/README.md"


def metric_facts(name: str) -> Facts:
    """The card of a metric; what it needs besides, and whether that is missing here, in the last lines."""
    try:
        card, function = registry.metric_card(name), registry.load_metric(name)
    except Unsupported as reason:
        return [("unsupported here", str(reason))]
    text = read_docstring(inspect.getdoc(function) or "")
    roles = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    facts = [
        ("on boards", f"``{card.id or name}``, version {card.version}"),
        ("definition", text["definition"]),
        ("value", f"{_sentence(text['Returns'])} Unit: {card.unit}; {_range(card)}; {BETTER[card.better]}."),
        ("one for each", f"{card.per}; {_interval(card)}"),
        ("tracks", ", ".join(card.tracks)),
        ("source", text["Source"]),
        ("differs", text["Differs"]),
        ("beware", text["Beware"]),
        ("needs", "; ".join(_needs(name, roles))),
    ]
    return [(what, said) for what, said in facts if said]


def read_docstring(text: str) -> dict[str, str]:
    """Its parts: "definition", what stands behind each of ``LABELS``, and each of ``SECTIONS``; empty where absent.

    Words are joined to paragraphs again; a line that was ended early on purpose, such as a formula, stays a line.
    """
    parts: dict[str, list[str]] = {name: [] for name in ("definition", *LABELS, *SECTIONS)}
    here = "definition"
    for line in text.splitlines():
        word, _, rest = line.partition(":")
        if word in SECTIONS and not rest:
            here, line = word, ""
        elif word in LABELS and here not in SECTIONS:
            here, line = word, rest.strip()
        elif not line.strip() and here in LABELS:
            here = "definition"
        parts[here].append(line)
    return {name: _joined(textwrap.dedent("\n".join(lines)).strip().splitlines()) for name, lines in parts.items()}


def _joined(lines: list[str]) -> str:
    """One line a paragraph or formula."""
    joined = ""
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        next_word = following.split(" ")[0]
        wraps = following and len(line) + 1 + len(next_word) > WIDTH - 16
        joined += line.strip() + (" " if wraps else "\n")
    return re.sub(r"\n{2,}", "\n", joined).strip()


def _sentence(text: str) -> str:
    return " ".join(text.split()).rstrip(".") + "." if text else ""


def _range(card: MetricCard) -> str:
    low, high = card.bounds
    if low is None:
        return "any number" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def _interval(card: MetricCard) -> str:
    if card.resample == "none":
        return "nothing is resampled, its interval comes from seeds alone"
    replicates = f", {card.replicates} replicates" if card.per == "set" else ""
    return f"its interval resamples {RESAMPLED[card.resample]}{replicates}"


def _needs(name: str, roles: list[str]) -> Iterator[str]:
    """Libraries that the file imports, and files of published networks that its roles come from."""
    for library in libraries(registry.entry("metric", name).path):
        yield f"the library {library}"
    for judge in judge_names():
        if any(role.removeprefix("real_").startswith(judge) for role in roles):
            card = judge_card(judge)
            yield f"{card.file.path} ({card.mebibytes} MiB; run_bench.py fetch {judge}) and the library {card.library}"


def libraries(path: Path) -> list[str]:
    """Names of the libraries that a file imports and that a reader has to be told of."""
    found = set()
    for node in ast.walk(registry.parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return sorted(found - set(EVERYWHERE))


# ---- the page ------------------------------------------------------------------------------------------------------


def page() -> str:
    """Cards of all built-in metrics in Markdown, by the first of their tracks.

    Raises:
        SetupError: a library that one of them needs is missing.
    """
    names = [name for name in registry.metric_names() if registry.entry("metric", name).origin == "built-in"]
    try:
        cards = {name: registry.metric_card(name) for name in names}
    except Unsupported as reason:
        raise SetupError(f"the page shows every metric, and one of them {reason}", "install it") from reason
    parts = [PREFACE, *(_line_of_track(track, cards) for track in TRACKS)]
    for track in TRACKS:
        own = [name for name in names if next(one for one in TRACKS if one in cards[name].tracks) == track]
        if own:
            parts += [f"\n## {track}\n", *map(_section, own)]
    return "\n".join(parts) + "\n"


PREFACE = f"""# Metric cards

What every number on the boards is, and when not to trust it. Made from the files in this folder by
`{COMMAND}`; `run_bench.py list metrics NAME` shows one card.

A metric's name on the boards says everything that moves the number; `{{referee}}` stands for the referee's network,
`{{panel}}` for those of the panel, joined by `+`. A number is citable as that name with its version. N counts what a
method made, M the real images it is compared with.

Metrics of each track, the one that ranks its board in bold:
"""


def _line_of_track(track: str, cards: dict[str, MetricCard]) -> str:
    links = [_link(name, TRACKS[track].primary) for name, card in cards.items() if track in card.tracks]
    return wrapped(f"* {track}: {', '.join(links)}")


def _link(name: str, primary: str) -> str:
    return f"**[{name}](#{name})**" if name == primary else f"[{name}](#{name})"


def _section(name: str) -> str:
    summary = registry.entry("metric", name).summary
    lines = [f"### {name}", "", wrapped(escaped(summary)), ""]
    lines += [wrapped(f"* **{what}**: {escaped(said)}") for what, said in metric_facts(name)]
    return "\n".join([*lines, ""])


def wrapped(text: str) -> str:
    """Lines of at most ``WIDTH``. Lines of an item stay lines of it, by Markdown's backslash; none starts a list."""
    indent = re.sub(".", " ", re.match(r"( *\* )?", text)[0])  # type: ignore[index]
    lines = [
        textwrap.fill(
            line,
            WIDTH - 1,
            initial_indent=indent if place else "",
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for place, line in enumerate(text.splitlines())
    ]
    return re.sub(r"^( *)([-+#>]|\d+[.)])(?= )", r"\1\\\2", "\\\n".join(lines), flags=re.M)


def escaped(text: str) -> str:
    """Text that Markdown shows as it stands, but for ``code``."""
    parts: list[Any] = re.split(r"(``.+?``)", text)
    return "".join(part if part.startswith("``") else re.sub(r"([*<])", r"\\\1", part) for part in parts)
