"""The report on paths of a small network with gates, and its picture."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from bench.execute import paths
from bench.execute.lab import Lab
from bench.execute.path_pictures import _lines, draw_paths
from bench.gating import ControllingModule, FixedGate, Paths, SalienceGate, attach, gated_layers
from bench.leaderboard.paths import PATH_MEASURES
from bench.plan.cells import build_untrained
from bench.zoo.datasets import dataset_card
from tests.execute.explaining import explanations

CELL = SimpleNamespace(
    dataset="digits", folder=None, track="training", subject="resnet_mini", seed=0, split="test", settings={}
)


def controlling(name, conv):
    gate = ControllingModule(conv.in_channels, conv.out_channels)
    nn.init.normal_(gate.reduce.weight, std=3.0)  # so that gates depend on the image
    return gate


def with_gates(make_gate):
    torch.manual_seed(0)
    network = build_untrained("resnet_mini", dataset_card("digits"), seed=0).eval()
    attach(network.inner, make_gate)
    return network.eval()


def report_of(folder: Path, network):
    lab = Lab(SimpleNamespace(root=folder), None, torch.device("cpu"))
    return paths.path_report(CELL, lab, network)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The report with few images, and the network that it is of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "IMAGES", 60)
        patch.setattr(paths, "SILENCED_IMAGES", 40)
        patch.setattr(paths, "FEWEST_SILENCED", 40)
        patch.setattr(paths, "DRAWS", 2)
        patch.setattr(paths, "concepts_of", lambda model, layers, root: {"rows": []})  # has tests of its own
        network, folder = with_gates(controlling), tmp_path_factory.mktemp("paths")
        yield SimpleNamespace(report=report_of(folder, network), network=network, folder=folder)


def values(report, layer, measure):
    """Group → (value, n)."""
    return {group: (value, n) for where, what, group, value, n in report["rows"] if (where, what) == (layer, measure)}


def test_a_report_is_json_without_nan(small):
    assert json.loads(json.dumps(small.report, allow_nan=False)) == small.report


def test_it_is_the_same_twice_and_leaves_global_random_numbers_alone(small):
    state = torch.get_rng_state()
    assert report_of(small.folder, small.network) == small.report
    assert torch.equal(torch.get_rng_state(), state)


def test_no_hook_edit_or_watch_is_left(small):
    for layer in gated_layers(small.network).values():
        assert layer.watch is None and layer.edit is None and not layer.is_soft


def test_no_line_stands_twice(small):
    names = [tuple(row[:3]) for row in small.report["rows"]]
    assert len(names) == len(set(names))


def test_every_measure_is_explained_once_and_no_other_is(small):
    found = {measure: explanations(measure) for _, measure, *_ in small.report["rows"]}
    assert {measure: keys for measure, keys in found.items() if len(keys) != 1} == {}
    grouped = {"group_contrast", "group_contrast_shuffled"}  # only where all classes are animals or vehicles
    expected = {key for key in PATH_MEASURES if not key.startswith("concept")} - grouped
    assert {key for keys in found.values() for key in keys} == expected


def test_similarities_of_animals_and_vehicles_are_explained():
    names, bits, labels = list(paths.KINDS), torch.eye(10).bool(), torch.arange(10)
    looked = paths._Looked(Paths({"conv": bits}, {"conv": bits.float()}, torch.eye(10)), labels)
    found = paths._similarities("conv", looked, names)
    assert len(found) == 4 and all(explanations(measure) == [measure] for measure in found)


def test_without_a_right_image_no_filter_is_said_to_be_selective():
    bits, labels = torch.rand(12, 5, generator=torch.Generator().manual_seed(0)) < 0.5, torch.arange(12) % 3
    wrong = torch.eye(3)[(labels + 1) % 3]
    looked = paths._Looked(Paths({"conv": bits}, {"conv": bits.float() - 0.5}, wrong), labels)
    rows = paths._Rows()
    paths._layer_rows(rows, "conv", looked, looked, ["a", "b", "c"])
    found = [(value, n) for _, measure, _, value, n in rows.lines if measure == "most_selective"]
    assert found == [(None, 0)] * 3


def test_every_class_keeps_its_row_even_without_a_right_image(small):
    report = small.report  # the network is untrained: it gets whole classes wrong
    layer = report["chosen"]["late"]
    found = values(report, layer, "class_on_rate")
    assert set(found) == set(report["classes"]) and len(found) == 10
    empty = [name for name, (_, n) in found.items() if n == 0]
    assert empty and all(found[name][0] is None for name in empty)
    rows = dict(zip(report["classes"], report["frequencies"][layer], strict=True))
    assert all(set(rows[name]) == {None} for name in empty)


def test_on_rates_are_those_of_the_gates_seen_by_a_hook(small):
    lab = Lab(SimpleNamespace(root=small.folder), None, torch.device("cpu"))
    images = lab.images(CELL, "test", lab.data(CELL).select("test", 60))
    for name, layer in gated_layers(small.network.inner).items():
        kept = []
        hook = layer.register_forward_pre_hook(lambda module, args, kept=kept: kept.append(args[0].mean((2, 3))))
        with torch.no_grad():
            small.network(images)
        hook.remove()
        with torch.no_grad():
            kept = layer.gate.expand(layer.gate.reduce(kept[0]).relu())
        expected = (kept > 0).double().mean().item()
        value, n = values(small.report, name, "on_rate")[""]
        assert value == pytest.approx(expected, abs=1e-9) and n == 60


def test_accuracy_on_dynamic_paths_is_the_networks_own(small):
    lab = Lab(SimpleNamespace(root=small.folder), None, torch.device("cpu"))
    places = lab.data(CELL).select("test", 40)
    with torch.no_grad():
        right = small.network(lab.images(CELL, "test", places)).argmax(1) == lab.labels(CELL, "test", places)
    value, n = values(small.report, "", "dynamic_path_accuracy")[""]
    assert value == pytest.approx(right.double().mean().item()) and n == 40


def test_controls_stand_beside_what_is_silenced(small):
    for layer in small.report["chosen"].values():
        for share in (5, 20):
            for end in ("class_own", "class_others", "class_selectivity", "random", "active"):
                assert "" in values(small.report, layer, f"silenced_{share}_{end}")


def test_a_static_mask_is_reported_as_one(small):
    network = with_gates(lambda name, conv: FixedGate(torch.arange(conv.out_channels) % 2 == 0))
    report = report_of(small.folder, network)
    count = len(gated_layers(network))
    (warning,) = report["warnings"]
    assert warning.startswith(f"{count} of {count} gated layers have a static mask")
    layer = report["chosen"]["late"]
    assert values(report, layer, "dynamic")[""][0] == 0 and values(report, layer, "spread")[""][0] == 0
    assert values(report, layer, "silenced_20_random")[""] == (None, 0)  # no dynamic filter to draw from
    accuracy = values(report, "", "dynamic_path_accuracy")[""]
    assert values(report, "", "mean_path_accuracy")[""] == accuracy


def test_gates_that_scale_are_put_on_no_fixed_path(small):
    network = with_gates(lambda name, conv: SalienceGate(conv.in_channels, conv.out_channels, keep=0.5))
    report = report_of(small.folder, network)
    assert not [row for row in report["rows"] if row[0] == ""]
    assert any("scale" in line for line in report["warnings"])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (18, {"early": 3, "middle": 9, "late": 17}),
        (54, {"early": 9, "middle": 27, "late": 53}),
        (2, {"early": 0, "late": 1}),
        (1, {"late": 0}),
    ],
)
def test_early_middle_and_late_are_unlike_layers(count, expected):
    found = paths.chosen_layers([f"layer {number}" for number in range(count)])
    assert found == {place: f"layer {number}" for place, number in expected.items()}


# ---- picture -------------------------------------------------------------------------------------------------------


def colours(path, box):
    with Image.open(path) as picture:
        return {colour for _, colour in picture.crop(box).getcolors(1 << 20)}


def test_the_picture_shows_every_filter_of_every_class(tmp_path):
    report = {
        "classes": ["a", "b", "c"],
        "chosen": {"late": "conv"},
        "frequencies": {"conv": [[0.0, 1.0] * 20, [None] * 40, [0.5] * 40]},
        "similarity": {"late": [[1.0, None, -1.0], [None] * 3, [-1.0, None, 1.0]]},
    }
    draw_paths(report, tmp_path / "paths.png")
    with Image.open(tmp_path / "paths.png") as picture:
        pixels, counts = picture.convert("RGB"), picture.info["rows"]
        found = {colour: number for number, colour in pixels.getcolors(1 << 20)}
    assert counts == "1"
    assert found[(8, 48, 107)] >= 20 * 2 * 11 + 2 * 26 * 26  # half of a row of filters, two entries of a matrix
    assert found[(178, 24, 43)] >= 2 * 26 * 26
    assert found[(200, 200, 200)] >= 40 * 2 * 11 + 5 * 26 * 26  # a class without an image is grey, not white


def test_layers_go_on_in_the_next_line():
    assert _lines({"a": 60, "b": 20, "c": 30, "d": 200, "e": 10}, 100) == [
        {"a": 60, "b": 20},
        {"c": 30},
        {"d": 200},
        {"e": 10},
    ]


def test_a_number_that_is_not_finite_has_no_value():
    rows = paths._Rows()
    rows.add("layer", {"one": math.nan, "two": math.inf, "three": 0.5}, 4)
    assert [row[3] for row in rows.lines] == [None, None, 0.5]
