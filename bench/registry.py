"""Which methods and metrics there are. Names and one-line descriptions are read without importing anything.

A file under ``methods/<track>/`` or ``metrics/`` *is* the registration: its stem is the name. Files from elsewhere
(``--plugin FILE``, or the entry-point groups ``glassbench.methods`` and ``glassbench.metrics``) join under their own
stem and cannot take a built-in name.
"""

import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from bench.contract import TRACKS, MethodCard, MetricCard, SetupError, Unsupported

ROOT = Path(__file__).resolve().parent.parent
PROJECT_PACKAGES = ("bench", "methods", "metrics")
SAFE_STEM = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
Kind = Literal["method", "metric", "network"]
LISTS = ("methods", "metrics", "subjects", "datasets", "suites")  # what `run_bench.py list` can name


@dataclass(frozen=True)
class Entry:
    """One registered file.

    Args:
        kind: what it marks.
        name: "track/stem" of a method, the stem of a metric.
        path: the file.
        origin: "built-in", "plugin", or the distribution whose entry point it is.
    """

    kind: Kind
    name: str
    path: Path
    origin: str

    @property
    def summary(self) -> str:
        """First line of the file's docstring."""
        return (ast.get_docstring(parse(self.path)) or "").split("\n")[0]


# ---- names ---------------------------------------------------------------------------------------------------------

_plugins: dict[tuple[Kind, str], Entry] = {}


def method_names(track: str | None = None) -> list[str]:
    """All methods as "track/stem", sorted; of one track where it is given."""
    return [name for name in _entries("method") if track in (None, name.split("/")[0])]


def metric_names() -> list[str]:
    """The stems of all metrics, sorted."""
    return list(_entries("metric"))


def entry(kind: Kind, name: str) -> Entry:
    """The file behind a name; a ``SetupError`` with the nearest names when there is none."""
    known = _entries(kind)
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def unknown(kind: str, name: str, known: Iterable[str]) -> SetupError:
    """The error for a name that does not exist, with the nearest ones that do."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if not near and "/" not in name:  # the stem alone may have been meant
        near = [full for full in names if full.split("/")[-1] == name]
    guess = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listed = f"list them with: run_bench.py list {kind}s" if f"{kind}s" in LISTS else f"there are: {', '.join(names)}"
    return SetupError(f"no {kind} named {name!r}.{guess}", listed)


def add_plugin(path: Path) -> Entry:
    """Register one file from outside: a method (its verb names the track), a metric, or networks.

    Raises:
        SetupError: no such file, bad syntax, no mark or several, or a name that is taken.
    """
    path = Path(path).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise SetupError(f"plugin {path} is not a Python file", "give the path of one .py file")
    if not SAFE_STEM.fullmatch(path.stem):
        raise SetupError(
            f"plugin {path}: {path.stem!r} cannot be a name", "use letters, digits and '_', a letter first"
        )
    kind, name = _identify(path)
    if name in _built_in(kind):
        raise SetupError(f"plugin {path} cannot take the built-in name {name!r}", "rename the file")
    found = Entry(kind, name, path, "plugin")
    if _plugins.get((kind, name), found).path != path:
        raise SetupError(f"two plugins are called {name!r}: {_plugins[kind, name].path} and {path}", "rename one")
    _plugins[kind, name] = found
    if kind == "network":
        _load(found)  # its decorator tells the zoo
    return found


def plugins() -> list[Entry]:
    """What ``add_plugin`` registered, for other processes to register too."""
    return list(_plugins.values())


def _entries(kind: Kind) -> dict[str, Entry]:
    extra = {name: found for (k, name), found in _plugins.items() if k == kind}
    return dict(sorted({**_from_packages(kind), **extra, **_built_in(kind)}.items()))


@cache
def _built_in(kind: Kind) -> Mapping[str, Entry]:
    if kind == "network":
        return {}
    if kind == "metric":
        files = {path.stem: path for path in (ROOT / "metrics").glob("*.py")}
    else:
        files = {f"{t}/{path.stem}": path for t in TRACKS for path in (ROOT / "methods" / t).glob("*.py")}
    return {name: Entry(kind, name, path, "built-in") for name, path in files.items() if not path.stem.startswith("_")}


@cache
def _from_packages(kind: Kind) -> Mapping[str, Entry]:
    """Files that installed packages offer as entry points; the module is found, not imported."""
    found = {}
    for point in importlib.metadata.entry_points(group=f"glassbench.{kind}s"):
        origin = point.dist.name if point.dist else "entry point"
        try:
            spec = importlib.util.find_spec(point.module)
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError(f"no module named {point.module!r}")
            actual, name = _identify(Path(spec.origin))
        except Exception as error:  # somebody else's package must not stop ours
            warnings.warn(f"{origin}: entry point {point.name} is left out: {error}", stacklevel=2)
            continue
        if actual == kind and name not in _built_in(kind):
            found[name] = Entry(kind, name, Path(spec.origin), origin)
    return found


# ---- reading without importing -------------------------------------------------------------------------------------


@cache
def parse(path: Path) -> ast.Module:
    """The file's syntax tree; a ``SetupError`` with the line when it has none."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise SetupError(f"{path}, line {error.lineno}: {error.msg}", "mend the syntax") from error
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from error


def _marks(path: Path) -> list[tuple[Kind, ast.ClassDef | ast.FunctionDef]]:
    found: list[tuple[Kind, ast.ClassDef | ast.FunctionDef]] = []
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            for decorator in node.decorator_list:
                called = decorator.func if isinstance(decorator, ast.Call) else decorator
                name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                if name in ("method", "metric", "network"):
                    found.append((name, node))  # type: ignore[arg-type]
    return found


def _identify(path: Path) -> tuple[Kind, str]:
    """What a file registers, and under which name."""
    marks = _marks(path)
    kinds = {kind for kind, _ in marks}
    if kinds == {"network"}:
        return "network", path.stem
    if len(marks) != 1:
        names = ", ".join(node.name for _, node in marks) or "none"
        raise SetupError(
            f"{path} should mark exactly one class with @method or one function with @metric, found {names}",
            "put each in a file of its own",
        )
    kind, node = marks[0]
    if kind == "metric":
        return "metric", path.stem
    verbs = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    tracks = [track.name for track in TRACKS.values() if track.verb in verbs]
    if len(tracks) != 1:
        wanted = ", ".join(f"{track.verb} ({track.name})" for track in TRACKS.values())
        raise SetupError(
            f"{path}: {node.name} should define exactly one verb, found {len(tracks)}", f"one of: {wanted}"
        )
    return "method", f"{tracks[0]}/{path.stem}"


def said_of_method(name: str) -> dict[str, str]:
    """``source`` and ``differs`` of a method's decorator, read without importing it; empty where no literal."""
    said = {"source": "", "differs": ""}
    for _, node in _marks(entry("method", name).path):
        for word in (word for call in node.decorator_list if isinstance(call, ast.Call) for word in call.keywords):
            if word.arg in said and isinstance(word.value, ast.Constant) and isinstance(word.value.value, str):
                said[word.arg] = word.value.value
    return said


# ---- importing -----------------------------------------------------------------------------------------------------


def load_method(name: str) -> type:
    """The class of a method.

    Raises:
        SetupError: no such method, or the file does not mark exactly one class.
        Unsupported: a library it needs is not installed.
    """
    found: type = _marked_in(entry("method", name), MethodCard)
    return found


def load_metric(name: str) -> Any:
    """The function of a metric; errors as ``load_method``."""
    return _marked_in(entry("metric", name), MetricCard)


def method_card(name: str) -> MethodCard:
    """What the method says of itself."""
    return load_method(name).__glassbench__  # type: ignore[attr-defined,no-any-return]


def metric_card(name: str) -> MetricCard:
    """What the metric says of itself."""
    return load_metric(name).__glassbench__  # type: ignore[no-any-return]


def make_method(name: str, variant: str = "default", settings: Mapping[str, Any] | None = None) -> Any:
    """An instance of a method with the variant's settings, then ``settings``, over its defaults.

    Raises:
        SetupError: unknown variant or setting (nearest name offered), or a value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    cls = load_method(name)
    variants = method_card(name).variants
    if variant not in variants and not settings:
        raise unknown("variant", variant, variants)
    merged = {**variants.get(variant, {}), **(settings or {})}
    fields = {field.name for field in dataclasses.fields(cls)}
    for key in merged:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise SetupError(f"{name} has no setting {key!r}.{guess}", f"it has: {', '.join(sorted(fields)) or 'none'}")
    try:
        # As JSON, because strict Python input would have to be an instance already; a list then also makes a tuple.
        return TypeAdapter(cls).validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SetupError(f"{name}: setting {place}: {first['msg']}, got {first['input']!r}") from error


def _marked_in(found: Entry, card: type) -> Any:
    module = _load(found)
    marked = [
        thing
        for thing in vars(module).values()
        if isinstance(getattr(thing, "__glassbench__", None), card) and thing.__module__ == module.__name__
    ]
    if len(marked) != 1:
        _identify(found.path)  # the error that names them
        raise SetupError(f"{found.path} should mark exactly one {found.kind}, found {len(marked)}")
    return marked[0]


def _load(found: Entry) -> ModuleType:
    try:
        if found.origin == "built-in":
            relative = found.path.relative_to(ROOT).with_suffix("")
            return importlib.import_module(".".join(relative.parts))
        return _load_file(found.path)
    except Exception as error:
        missing = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if missing and missing not in PROJECT_PACKAGES:
            raise Unsupported(f"needs {missing}") from error
        if isinstance(error, SyntaxError):
            raise SetupError(f"{error.filename}, line {error.lineno}: {error.msg}", "mend the syntax") from error
        if found.origin == "built-in" or isinstance(error, SetupError | Unsupported):
            raise
        raise SetupError(f"{found.path} cannot be imported: {type(error).__name__}: {error}", "mend it") from error


def _load_file(path: Path) -> ModuleType:
    name = f"glassbench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# ---- digests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """What one project file defines, and what each definition needs.

    Args:
        code: top-level name → its code without comments and docstrings; what has no name stands under "".
        needs: top-level name → the names that its code mentions.
        imports: name in the file → (project file, name there, or "*" for the whole file).
    """

    code: Mapping[str, str]
    needs: Mapping[str, frozenset[str]]
    imports: Mapping[str, tuple[Path, str]]


@cache
def source_digest(kind: Kind, name: str) -> str:
    """sha256 over the file and every definition of the project that it uses, directly or not.

    Comments, docstrings and what it does not use do not count, so a helper added for one method leaves the others'
    records valid.
    """
    parts = sorted((used.path.stem, used.name, used.code) for used in definitions(kind, name))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Definition:
    """A top-level definition of a project file, and its code without comments and docstrings."""

    path: Path
    name: str
    code: str


def definitions(kind: Kind, name: str) -> tuple[Definition, ...]:
    """All that a method's or metric's file defines, and every definition of the project that it uses."""
    seen: set[tuple[Path, str]] = set()
    waiting = [(entry(kind, name).path, "*")]
    while waiting:
        path, wanted = waiting.pop()
        if (path, wanted) in seen:
            continue
        seen.add((path, wanted))
        source = _source(path)
        if wanted == "*":
            waiting += [(path, defined) for defined in source.code]
            continue
        mentioned = source.needs.get(wanted, frozenset({wanted}))
        waiting += [(path, other) for other in mentioned if other in source.code]
        waiting += [source.imports[other] for other in mentioned if other in source.imports]
    return tuple(Definition(path, wanted, _source(path).code.get(wanted, "")) for path, wanted in seen)


@cache
def _source(path: Path) -> _Source:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    code: dict[str, str] = {}
    needs: dict[str, frozenset[str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            mentioned = frozenset(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
            for name in _defined_by(node):
                code[name] = code.get(name, "") + ast.unparse(node)
                needs[name] = needs.get(name, frozenset()) | mentioned
    return _Source(code, needs, _project_imports(tree))


def _defined_by(node: ast.stmt) -> list[str]:
    """Names that a top-level statement defines; [""] for one that defines none."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)] or [""]


def _project_imports(tree: ast.Module) -> dict[str, tuple[Path, str]]:
    found: dict[str, tuple[Path, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                as_module, inside = _file_of(f"{node.module}.{alias.name}"), _file_of(node.module)
                if as_module is not None:
                    found[alias.asname or alias.name] = (as_module, "*")
                elif inside is not None:
                    found[alias.asname or alias.name] = (inside, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                path = _file_of(alias.name)
                if path is not None:
                    found[alias.asname or alias.name.split(".")[0]] = (path, "*")
    return found


def _file_of(module: str) -> Path | None:
    """The project's file of a module's name; None for other libraries and for names that are no module."""
    if module.split(".")[0] not in PROJECT_PACKAGES:
        return None
    place = ROOT.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
