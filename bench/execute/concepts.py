"""Filters and gates of a trained network against concepts: on pictures of known factors, and on textures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.contract import Classifier, SetupError
from bench.gating.concepts import factor_report, label_report
from bench.zoo.datasets import EvalTransform, open_dataset

PICTURES, FEWER_PICTURES, LARGE = 400, 100, 64  # of known factors; fewer where a side is longer than LARGE pixels
SUMS = ("every", "path", "unit", "random")


def concepts_of(model: Classifier, layers: Sequence[str], root: Path | None) -> dict[str, Any]:
    """Everything in values of JSON; the same for the same network.

    Args:
        layers: gated layers to look at.
        root: where the data lie; None where there is none.

    Returns:
        ``factors`` and ``textures``: see ``concept_report``, the latter without filters' maps, since textures have
        labels alone; where the pictures cannot be had, "absent" says why. ``rows``: lines of ``paths.csv``.
    """
    reports = {"factors": _factors(model, layers), "textures": _textures(model, layers, root)}
    rows = [row for name, report in reports.items() if "absent" not in report for row in concept_rows(report, name)]
    return {**reports, "rows": rows}


def _factors(model: Classifier, layers: Sequence[str]) -> dict[str, Any]:
    count = PICTURES if max(model.image_shape) <= LARGE else FEWER_PICTURES
    try:
        return factor_report(model, layers, count)
    except SetupError as error:  # images too small for shapes to differ
        return _absent(error)


def _textures(model: Classifier, layers: Sequence[str], root: Path | None) -> dict[str, Any]:
    side = max(model.image_shape[1:])
    try:
        data = open_dataset("textures", root)
        images = data.images("test", transform=EvalTransform(size=side, crop_pct=1.0))
    except SetupError as error:
        return _absent(error)
    device = next(model.network.parameters()).device
    images = images.to(device, torch.float32) / 255
    return label_report(model, images, data.labels("test").to(device), data.card.class_names or (), layers)


def _absent(error: SetupError) -> dict[str, Any]:
    return {"absent": str(error).splitlines()[0]}


def concept_rows(report: dict[str, Any], pictures: str) -> Iterator[list[Any]]:
    """Lines of (layer, measure, group, value, n); the group is a concept, or ``pictures`` for all concepts of them."""
    for layer, found in report["layers"].items():
        gates = found["gates"]
        yield [layer, "concept_gates_significant", pictures, gates["significant"], gates["tested"]]
        for concept, one in gates["concepts"].items():
            yield [layer, "concept_gate_phi", concept, one["phi"], report["pictures"]]
        for kind, units in found.get("units", {}).items():
            yield [layer, f"concept_detectors_{kind}", pictures, units["detectors"], units["filters"]]
            yield [layer, f"concepts_detected_{kind}", pictures, len(units["unique_concepts"]), len(report["concepts"])]
            yield [layer, f"concept_unit_iou_{kind}", pictures, units["mean_largest_iou"], units["filters"]]
        for kind, sums in found.get("combinations", {}).items():
            yield from _sum_rows(layer, kind, sums, pictures, report["pictures"] // 2)


def _sum_rows(layer: str, maps: str, found: dict[str, Any], pictures: str, unseen: int) -> Iterator[list[Any]]:
    for kind in SUMS:
        yield [layer, f"concept_iou_{kind}_{maps}", pictures, found["mean"][kind], found["judged"]]
        for concept, one in found["concepts"].items():
            yield [layer, f"concept_iou_{kind}_{maps}", concept, one[kind], unseen]
    for rival in ("random", "unit"):
        for end, suffix in (("difference", ""), ("low", "_low"), ("high", "_high")):
            value = found[f"path_beats_{rival}"][end]
            yield [layer, f"concept_path_minus_{rival}_{maps}{suffix}", pictures, value, found["judged"]]
