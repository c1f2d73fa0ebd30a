"""Concepts of a gated network: textures where they are, and lines for ``paths.csv``."""

import json

import pytest
import torch
from torch import nn

from bench.execute import concepts
from bench.execute.concepts import concepts_of
from bench.gating import ControllingModule, attach, gated_layers
from bench.leaderboard.paths import PATH_MEASURES
from bench.zoo.classifier import Classifier
from bench.zoo.datasets import EvalTransform
from tests.execute.explaining import explanations


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    monkeypatch.setattr(concepts, "PICTURES", 32)
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stem, second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        network = nn.Sequential(stem, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network.append(nn.Linear(12, 4))
        attach(network, lambda name, conv: ControllingModule(conv.in_channels, conv.out_channels))
        for layer in gated_layers(network).values():
            nn.init.normal_(layer.gate.reduce.weight, std=3)
    return Classifier(network, name="toy", image_shape=(1, 16, 16), num_classes=4, mean=(0.5,), std=(0.1,), taps={})


class Textures:
    """Stands for the opened data set: six pictures, two of each of three textures."""

    class card:
        class_names = ("banded", "bumpy", "cracked")

    def images(self, split: str, transform: EvalTransform) -> torch.Tensor:
        shape = (6, 3, transform.size, transform.size)
        return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def labels(self, split: str) -> torch.Tensor:
        return torch.tensor([0, 0, 1, 1, 2, 2])


def test_without_textures_the_report_says_why_and_has_the_factors(model):
    found = concepts_of(model, ["2"], None)
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert found["textures"] == {"absent": "textures is read from files, and no data root is given"}
    assert found["factors"]["pictures"] == 32 and list(found["factors"]["layers"]) == ["2"]


def test_textures_are_looked_at_where_they_are(model, monkeypatch):
    monkeypatch.setattr(concepts, "open_dataset", lambda name, root: Textures())
    found = concepts_of(model, ["2"], None)["textures"]
    assert found["pictures"] == 6 and found["concepts"] == ["banded", "bumpy", "cracked"]
    assert set(found["layers"]["2"]) == {"gates"}


def test_images_too_small_for_shapes_cost_the_factors_alone(model, monkeypatch):
    monkeypatch.setattr(concepts, "open_dataset", lambda name, root: Textures())
    model.image_shape = (1, 7, 16)
    found = concepts_of(model, ["2"], None)
    assert found["factors"] == {"absent": "factor pictures need sides of 8 pixels or more, got 7 × 16"}
    assert found["textures"]["pictures"] == 6
    assert {row[1] for row in found["rows"]} == {"concept_gates_significant", "concept_gate_phi"}


def test_every_measure_of_concepts_is_explained_once_and_no_other_is(model):
    found = {row[1]: explanations(row[1]) for row in concepts_of(model, ["2"], None)["rows"]}
    assert {measure: keys for measure, keys in found.items() if len(keys) != 1} == {}
    assert {key for keys in found.values() for key in keys} == {key for key in PATH_MEASURES if "concept" in key}


def test_each_line_has_its_layer_and_the_number_of_the_report(model):
    found = concepts_of(model, ["2"], None)
    assert all(len(row) == 5 and row[0] == "2" for row in found["rows"])
    lines = {(measure, group): (value, n) for _, measure, group, value, n in found["rows"]}
    assert len(lines) == len(found["rows"])  # none twice
    layer = found["factors"]["layers"]["2"]
    sums = layer["combinations"]["unmasked"]
    assert lines["concept_iou_path_unmasked", "disc"] == (sums["concepts"]["disc"]["path"], 16)
    assert lines["concept_detectors_masked", "factors"] == (layer["units"]["masked"]["detectors"], 12)
    assert lines["concept_path_minus_random_unmasked_low", "factors"][0] == sums["path_beats_random"]["low"]
