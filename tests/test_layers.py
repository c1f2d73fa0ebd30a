"""The import picture: two towers and a capstone, every module importing from lower rows only.

                     run_bench
      ┌──────────────────┴──────────────────┐
bench/execute ────────────────┐       bench/report
bench/plan                    │       bench/leaderboard
bench/registry   bench/zoo    │             │
methods/*        metrics/*    │             │
bench/_batch_norm             │             │
bench/back_projection         │             │
bench/relevance               │             │
bench/sort_matching           │             │
bench/conditioned_generator   │             │
bench/gating                  │             │
bench/ops                     │             │
bench/contract                └───────▶ bench/record
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LEFT = {
    "contract": 0,
    "ops": 1,
    "_batch_norm": 2,
    "back_projection": 2,
    "relevance": 2,
    "sort_matching": 2,
    "conditioned_generator": 2,
    "gating": 2,
    "methods": 3,
    "metrics": 3,
    "registry": 4,
    "zoo": 4,
    "plan": 5,
    "execute": 6,
}
RIGHT = {"record": 0, "leaderboard": 1, "report": 2}
HEAVY = {"torch", "torchvision", "timm", "torchmetrics", "foolbox", "lpips", "zennit", "fvcore", "sklearn", "skimage"}
FOLDERS = ("bench", "methods", "metrics")


def box_of(module: str) -> str | None:
    """The box of the picture a dotted module name lies in: None for foreign libraries and for ``bench`` itself."""
    first, *rest = module.split(".")
    if first == "bench":
        return rest[0] if rest else None
    return first if first in ("methods", "metrics", "run_bench") else None


def may_import(importer: str, imported: str) -> bool:
    """Whether the picture has a line from the importer's box down to the imported one."""
    if importer == "run_bench":
        return imported != "run_bench"
    if importer == imported:  # parts of one package
        return True
    if importer in RIGHT:
        return imported in RIGHT and RIGHT[imported] < RIGHT[importer]
    if imported == "record":
        return importer == "execute"
    return imported in LEFT and LEFT[imported] < LEFT[importer]


def may_share(module: str, name: str) -> bool:
    """A method or metric never imports another; ``_name.py`` in its own folder may hold what several of them share."""
    folder = module.split(".")[:-1]
    stem = name.split(".")[len(folder) : len(folder) + 1]
    return name.split(".")[: len(folder)] == folder and all(part.startswith("_") for part in stem)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Dotted names of all that a source imports, at its top or inside functions, relative imports resolved.

    ``from a import b`` gives both ``a`` and ``a.b``: b may be a module.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What in this source the picture does not allow, one line each."""
    importer, found = box_of(module), []
    if importer is not None and importer not in {"run_bench", *LEFT, *RIGHT}:
        return [f"{module} has no place in the picture"]
    for name in imports(source, module, is_package):
        imported = box_of(name)
        if importer is None and imported is not None:
            found.append(f"{module} imports {name}: it is imported by everyone and imports no one")
        elif importer is not None and imported is not None and not may_import(importer, imported):
            found.append(f"{module} imports {name}: not a lower row of its tower")
        elif importer == imported and importer in ("methods", "metrics") and not may_share(module, name):
            found.append(f"{module} imports {name}: one file, one idea")
        elif importer in RIGHT and name.split(".")[0] in HEAVY:
            found.append(f"{module} imports {name}: the right tower works without it")
    return found


def project_files() -> list[Path]:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*files, ROOT / "run_bench.py"]


@pytest.mark.parametrize("path", project_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert violations(path.read_text(encoding="utf-8"), module, is_package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bench.contract", "import bench.ops"),
        ("bench.ops", "from bench import registry"),
        ("bench.registry", "from bench.zoo import networks"),
        ("bench.zoo.networks", "def build():\n    import bench.registry"),
        ("bench.plan", "from bench.record import Store"),
        ("bench.plan.graph", "from ..execute import run"),
        ("bench.leaderboard", "from bench.report import print_boards"),
        ("bench.leaderboard", "from bench import contract"),
        ("bench.report.page", "import importlib\nimportlib.import_module('bench.plan')"),
        ("bench.record", "import torch"),
        ("bench.leaderboard.statistics", "def mean():\n    from torch import Tensor"),
        ("bench.execute", "from bench.leaderboard import build"),
        ("methods.inversion.a", "from methods.inversion.b import B"),
        ("methods.inversion.a", "from methods.adversarial import _shared"),
        ("methods.inversion._shared", "from methods.inversion import a"),
        ("metrics.a", "import metrics.b"),
        ("metrics.a", "from methods.inversion import b"),
        ("metrics.a", "import bench.record"),
        ("bench.newcomer", ""),
        ("bench", "from bench import contract"),
        ("bench.execute", "import run_bench"),
    ],
)
def test_a_line_that_is_not_in_the_picture_is_found(module: str, source: str):
    assert violations(source, module, is_package=module == "bench") != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("run_bench", "from bench import execute, leaderboard, report"),
        ("bench.execute", "from bench.record import Store\nfrom bench import plan, registry, ops"),
        ("bench.execute.worker", "from . import cells"),
        ("bench.plan", "from bench import registry\nfrom bench.zoo import datasets"),
        ("bench.zoo.networks", "from bench.zoo.classifier import Classifier\nimport torch"),
        ("methods.inversion.a", "from bench.contract import method\nfrom bench.ops import total_variation"),
        ("methods.inversion.a", "from methods.inversion import _shared"),
        ("metrics.a", "from metrics._shared import ranks"),
        ("bench.report", "from bench.leaderboard import Boards\nfrom bench.record import Record"),
    ],
)
def test_a_line_of_the_picture_is_allowed(module: str, source: str):
    assert violations(source, module) == []


def loaded_by(*modules: str) -> set[str]:
    """Top-level names in ``sys.modules`` of a new interpreter that imported ``modules``."""
    code = f"import sys, {', '.join(modules)}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_the_right_tower_loads_neither_torch_nor_the_left():
    assert not HEAVY & loaded_by("bench.record", "bench.leaderboard", "bench.report")


def test_names_are_read_without_torch():
    catalogues = ("bench.contract", "bench.registry", "bench.zoo.datasets", "bench.zoo.networks", "bench.zoo.weights")
    assert not {*HEAVY, "pandas"} & loaded_by(*catalogues)


def test_the_command_line_starts_without_anything_heavy():
    assert not {*HEAVY, "pandas", "matplotlib"} & loaded_by("run_bench")


def test_the_check_for_loaded_libraries_sees_one():
    assert "torch" in loaded_by("torch")
