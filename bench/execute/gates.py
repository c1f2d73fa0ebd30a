"""No network is looked into, and none judges, that does badly on clean images: something about it is wrong."""

import json
from collections.abc import Callable

import torch
from torch import Tensor

from bench.contract import Classifier
from bench.execute.lab import Lab
from bench.plan.cells import Cell
from bench.record import write_atomic
from bench.zoo import weights
from bench.zoo.datasets import open_dataset
from bench.zoo.weights import Gate


def refusal(cell: Cell, lab: Lab, name: str, key: str | None, gate: float | None) -> str | None:
    """Why a network may not take part, or None.

    Args:
        name, key: as for ``Lab.model``.
        gate: smallest clean accuracy that passes, a fraction; None for the one on a public network's card.
    """
    if gate is None and key is None and (card := weights.public_card(name)).gate is not None:
        gate = card.gate.lowest
    if gate is None or cell.override_gate:
        return None
    accuracy = clean_accuracy(cell, lab, name, key)
    if accuracy is not None and accuracy >= gate:
        return None
    found = "no clean accuracy" if accuracy is None else f"a clean accuracy of {accuracy:.3f}"
    return f"{name} has {found}, its gate is {gate:.4g}: wrong weights, wrong normalisation or wrong data"


def clean_accuracy(cell: Cell, lab: Lab, name: str, key: str | None) -> float | None:
    """Fraction of clean test images that the network gets right; that of public weights is kept in the store."""
    if key is not None:
        return next((reading.value for reading in lab.store.read(key).readings if reading.stem == "top1"), None)
    card = weights.public_card(name)
    gate = card.gate or Gate(accuracy=0.0, dataset=cell.dataset, split="test", count=1000)
    model = lab.model(cell, name, None)
    facts = {
        "subject": name,
        "weights": card.sha256 or model.checksum(),
        "on": f"{gate.dataset} {gate.split} {gate.count} {gate.kind}",
    }
    kept = lab.store.root / "features" / f"gate.{name}.json"
    if kept.is_file() and (known := json.loads(kept.read_text())).items() >= facts.items():
        return float(known["accuracy"])
    accuracy = _measure(cell, lab, model, gate)
    write_atomic(kept, json.dumps(facts | {"accuracy": accuracy}).encode())
    return accuracy


def _measure(cell: Cell, lab: Lab, model: Classifier, gate: Gate) -> float:
    """Accuracy as the gate asks for: of the logits, or of a linear probe on the penultimate layer."""
    data = lab.data(cell) if gate.dataset == cell.dataset else open_dataset(gate.dataset, lab.root)

    def shown(split: str, places: Tensor, look: Callable[[Classifier, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        parts = (data.images(split, part).to(lab.device).float() / 255 for part in torch.split(places, 64))
        return torch.cat([look(model, part).cpu() for part in parts]), data.labels(split)[places]

    places = torch.arange(min(gate.count, len(data.labels(gate.split))))
    if gate.kind == "top1":
        logits, labels = shown(gate.split, places, lab.logits)
        return float((logits.argmax(1) == labels).double().mean())
    known = shown("train", torch.arange(len(data.labels("train"))), lab.penultimate)
    return weights.linear_probe(*known, *shown(gate.split, places, lab.penultimate))
