"""What there is, for people: names and lines for ``run_bench.py list``."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from bench import registry
from bench.plan.suite import suite_names, suite_summary
from bench.zoo.datasets import dataset_card, dataset_names
from bench.zoo.networks import network_card, network_names
from bench.zoo.weights import public_card, public_names


def rows(kind: str) -> Iterator[tuple[str, str]]:
    """(name, one line) of everything of a kind; nothing is imported for it."""
    match kind:
        case "methods" | "metrics":
            names = registry.method_names() if kind == "methods" else registry.metric_names()
            for name in names:
                found = registry.entry("method" if kind == "methods" else "metric", name)
                missing = _missing_library(found.path)
                note = f" [unsupported: needs {missing}]" if missing else ""
                yield name, f"{found.summary}{'' if found.origin == 'built-in' else f' ({found.origin})'}{note}"
        case "datasets":
            yield from ((name, dataset_card(name).description) for name in dataset_names())
        case "suites":
            yield from ((name, suite_summary(name)) for name in suite_names())
        case _:
            for name in network_names():
                yield f"{name}.DATASET.TRAINING", network_card(name).description
            for name in public_names():
                yield name, f"public weights for {public_card(name).dataset}: {public_card(name).source}"
            yield "MODEL.TAG", "any classifier of timm (resnet50.a1_in1k) or torchvision (resnet50.IMAGENET1K_V2)"


def _missing_library(path: Path) -> str:
    """First module that the file imports at its top and that is not installed; nothing is imported to find out."""
    for node in registry.parse(path).body:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        for module in modules:
            top = module.split(".")[0]
            if top not in registry.PROJECT_PACKAGES and importlib.util.find_spec(top) is None:
                return top
    return ""
