"""Cards of methods: what each does, where it comes from, what can be set and what it looks at.

Everything comes from the code: the decorator, the docstrings of the class and of its ``why_not``, and the settings with
their comments, those that methods share by inheriting them once for all.
"""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench import registry
from bench.contract import TRACKS, MethodCard, SetupError, Task, Track, Unsupported
from bench.plan.cards import Facts, escaped, libraries, read_docstring, wrapped

COMMAND = "run_bench.py list methods --markdown > METHODS.md"
# Fields of tasks that say what to do and how, not what there is to look at.
ORDERS = {field.name for field in dataclasses.fields(Task)} | {
    *("tap", "kind", "targets", "bound", "num_classes", "recipe", "checkpoint", "note", "remember", "network", "device")
}


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass as its author wrote it.

    Args:
        default: Python source, empty where there is none.
        meaning: its comment, or the one above it.
        heading: the comment above it where it has one of its own too: about it and those that follow.
        choices: the values that its type allows, where they are listed and not told otherwise.
    """

    name: str
    default: str
    meaning: str
    heading: str = ""
    choices: tuple[Any, ...] = ()


def facts(name: str) -> Facts:
    """The card of a method, without its settings."""
    try:
        card, cls = registry.method_card(name), registry.load_method(name)
    except Unsupported as reason:
        return [("unsupported here", str(reason))]
    told = [
        ("definition", read_docstring(inspect.getdoc(cls) or "")["definition"]),
        ("source", card.source),
        ("differs", card.differs or "no"),
        ("looks at", ", ".join(f"``{field}``" for field in looked_at(name)) or "no data"),
        ("needs", "; ".join(_needs(name, cls))),
        ("beware", "; ".join(_warnings(card))),
        ("version", str(card.version)),
        ("variants", ", ".join(card.variants)),
    ]
    return [(what, said) for what, said in told if said]


def looked_at(name: str) -> list[str]:
    """Fields of the task with data in them that the method's code mentions, or what it calls in other files."""
    own = registry.entry("method", name).path
    reached = [one for one in registry.definitions("method", name) if one.code]
    used = [one for one in reached if one.path == own]
    for one in used:  # grows on the way; a file may be reached whole for one of its functions
        words = set(re.findall(r"\w+", one.code))
        used += [other for other in reached if other.name in words and other not in used]
    mentioned = {field for one in used for field in re.findall(r"\btask\.(\w+)", one.code)}
    return [field.name for field in _given(TRACKS[name.split("/")[0]]) if field.name in mentioned]


@cache
def own_settings(cls: type) -> tuple[Setting, ...]:
    """The fields that stand in the body of this very class, in order."""
    source = textwrap.dedent(inspect.getsource(cls))
    comments = _comments(source)
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    kinds = {field.name: field.type for field in dataclasses.fields(cls)}
    return tuple(
        _setting(node, node.target.id, kinds[node.target.id], comments, source)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    )


def shared_bases(cls: type) -> list[type]:
    """Dataclasses that a method inherits settings from, nearest first."""
    return [base for base in cls.__mro__[1:] if dataclasses.is_dataclass(base) and own_settings(base)]


# ---- one method ----------------------------------------------------------------------------------------------------


def _given(track: Track) -> list[Setting]:
    return [field for field in own_settings(track.task) if field.name not in ORDERS]


def _needs(name: str, cls: type) -> Iterator[str]:
    """Why it may be skipped, in the words of ``why_not``, and the libraries it imports."""
    reason = inspect.getdoc(cls.why_not) if hasattr(cls, "why_not") else None
    if reason:
        said = read_docstring(reason)["definition"].rstrip(".")
        yield re.sub("^(It needs|Needs) ", "", said)
    files = {one.path for one in registry.definitions("method", name) if "methods" in one.path.parts}
    for library in sorted({library for path in files for library in libraries(path)}):
        yield f"the library {library}"


def _warnings(card: MethodCard) -> Iterator[str]:
    if card.reference:
        yield "shows real images, and is ranked only where metrics are put to the test"
    if not card.alone:
        yield "an image depends on the others of its batch"


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """Line → its comment, and whether there is nothing else in the line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: (token.string.removeprefix("#").strip(), token.line.lstrip().startswith("#"))
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _setting(node: ast.AnnAssign, name: str, kind: Any, comments: dict[int, tuple[str, bool]], source: str) -> Setting:
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    beside = " ".join(comments[line][0] for line in lines if line in comments)
    first = node.lineno
    while comments.get(first - 1, ("", False))[1]:
        first -= 1
    above = " ".join(comments[line][0] for line in range(first, node.lineno))
    default = _default(node.value, source)
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    told = all(str(choice) in f"{default} {beside or above}" for choice in choices)
    return Setting(name, default, beside or above, above if beside else "", () if told else choices)


def _default(node: ast.expr | None, source: str) -> str:
    """The default as written; what a factory makes in place of ``field(default_factory=…)``."""
    if isinstance(node, ast.Call):
        factory = next(word.value for word in node.keywords if word.arg == "default_factory")
        return {"list": "[]", "dict": "{}"}[ast.unparse(factory)]
    return (ast.get_source_segment(source, node) or "") if node else ""


# ---- the page ------------------------------------------------------------------------------------------------------


def page() -> str:
    """Cards of all built-in methods in Markdown, track by track.

    Raises:
        SetupError: a library that one of them needs is missing.
    """
    names = [name for name in registry.method_names() if registry.entry("method", name).origin == "built-in"]
    try:
        for name in names:
            registry.load_method(name)
    except Unsupported as reason:
        raise SetupError(f"the page shows every method, and one of them {reason}", "install it") from reason
    parts = [PREFACE]
    of_track = {track: [name for name in names if name.split("/")[0] == track] for track in TRACKS}
    for track, own in of_track.items():
        links = ", ".join(f"[{name.split('/')[1]}](#{_anchor(name)})" for name in own)
        parts.append(wrapped(f"* [{track}](#{track}): {links}"))
    for track, own in of_track.items():
        parts += ["", *_track(own, TRACKS[track])]
    return "\n".join(parts).rstrip("\n") + "\n"


PREFACE = f"""# Methods

What every method on the boards does, where it comes from, how it differs from there, and all that can be set. Made from
the files under `methods/` by `{COMMAND}`;
`run_bench.py list methods NAME` shows one card.

A row of a board is citable as method, variant and version: the version grows when a method's numbers change on
purpose, and settings that are not listed with a variant are the defaults. "Looks at" names the data of the task that
the method's code mentions; the network itself is there in every track. A budget counts passes of one image through the
subject, forward or backward; what a method learns once is divided over its images.

Where the paper and its authors' public code could not both be read, marks say what a value rests on: [paper] the paper;
[code], [code-20], [code-19] the authors' public code, or a release that passes for it; [group code] public code of
people around the authors; [peer] a rival's own public code; [measured] and [derived] our own check; [our choice],
[ours] nobody's but ours. "Spec" means this project's notes on the papers.

Methods of each track:
"""


def _anchor(heading: str) -> str:
    """Where a heading is found, as the usual viewers of Markdown name it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _track(names: list[str], track: Track) -> list[str]:
    verb = f"The verb is ``{track.verb}(task)``; it gives back {escaped(track.returns)}. There is to look at:"
    lines = [f"## {track.name}", "", _told(track.task), "", wrapped(verb), "", *_listed(_given(track), ""), ""]
    shared: dict[type, None] = {}
    for name in names:
        lines += _section(name)
        shared |= dict.fromkeys(shared_bases(registry.load_method(name)))
    for base in shared:
        lines += [f"### {_title(base)}", "", _told(base), "", *_listed(own_settings(base), ""), ""]
    return lines


def _told(cls: type) -> str:
    return wrapped(escaped(read_docstring(inspect.getdoc(cls) or "")["definition"]))


def _section(name: str) -> list[str]:
    cls, card = registry.load_method(name), registry.method_card(name)
    lines = [f"### {name}", "", wrapped(escaped(registry.entry("method", name).summary)), ""]
    for what, said in facts(name):
        if what != "variants":
            lines.append(wrapped(f"* **{what}**: {escaped(said)}"))
    bases = shared_bases(cls)
    links = " and of ".join(f"[{base.__name__}](#{_anchor(_title(base))})" for base in bases)
    settings = own_settings(cls)
    if settings or links:
        others = f", beside the shared ones of {links}; what stands in both lists is another default" if links else ""
        lines.append(wrapped(f"* **settings**{others}:"))
        lines += _listed([_inherited(one, bases) for one in settings], "  ")
    named = {variant: changed for variant, changed in card.variants.items() if changed}
    if named:
        lines.append("* **variants**:")
        lines += [wrapped(f"  * ``{variant}``: {_changes(changed)}") for variant, changed in named.items()]
    return [*lines, ""]


def _title(base: type) -> str:
    return f"Shared settings: {base.__name__}"


def _inherited(setting: Setting, bases: list[type]) -> Setting:
    """With the meaning from the class where it was first written, if it is not said again."""
    known = {one.name: one.meaning for base in reversed(bases) for one in own_settings(base)}
    return dataclasses.replace(setting, meaning=setting.meaning or known.get(setting.name, ""))


def _listed(settings: Sequence[Setting], indent: str) -> list[str]:
    lines = []
    for one in settings:
        if one.heading:
            lines.append(wrapped(f"{indent}* *{escaped(one.heading)}*"))
        default = f" = ``{one.default}``" if one.default else ""
        choices = " | ".join(f"``{_literal(choice)}``" for choice in one.choices)
        said = "; ".join(filter(None, (escaped(one.meaning), f"one of {choices}" if choices else "")))
        lines.append(wrapped(f"{indent}* ``{one.name}``{default}{f': {said}' if said else ''}"))
    return lines


def _changes(changed: Any) -> str:
    return ", ".join(f"``{name}`` = ``{_literal(value)}``" for name, value in changed.items())


def _literal(value: Any) -> str:
    return repr(value).replace("'", '"')
