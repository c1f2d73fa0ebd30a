"""Multiply-adds of images that use as many filters as they are bright, against loops over the layers."""

import pytest
import torch
from torch import nn

from bench.contract import ShapeError, Undefined
from bench.gating import FixedGate, Gate, attach
from bench.zoo.classifier import Classifier
from metrics import _skipping
from metrics.gmacs import gmacs
from metrics.gmacs_cut import gmacs_cut
from metrics.gmacs_cut_outputs import gmacs_cut_outputs
from metrics.gmacs_executed import gmacs_executed
from metrics.gmacs_spread import gmacs_spread

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)  # a filter of the first gated layer is on where the picture is brighter
KEPT = (True, False, True)  # filters of the second, whatever the picture
BRIGHTNESS = (0.0, 0.2, 0.8, 0.4, 0.6)
UNGATED = Undefined("the network has no gates")


class Lamp(Gate):
    """On where the picture is bright enough."""

    multiply_adds = 7

    def scores(self, squeezed):
        return squeezed[:, :1] - torch.tensor(THRESHOLDS)


def subject(gated=True):
    """A stem that doubles the picture, gated convolutions of 4 and 3 filters, a head for 2 classes."""
    stem = nn.Conv2d(1, 2, 1, bias=False)
    nn.init.ones_(stem.weight)
    convs = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU()]
    network = nn.Sequential(stem, *convs, nn.Flatten(), nn.Linear(3 * 36, 2))
    if gated:
        gates = {"1": Lamp(), "3": FixedGate(torch.tensor(KEPT))}
        attach(network, lambda path, conv: gates[path])
    return Classifier(network, name="lamps", image_shape=(1, 6, 6), num_classes=2, mean=[0.0], std=[1.0], taps={})


def pictures(brightness=BRIGHTNESS):
    return torch.tensor(brightness)[:, None, None, None].expand(-1, 1, 6, 6).contiguous()


def by_hand(brightness, inputs=True):
    first = sum(brightness > threshold for threshold in THRESHOLDS)
    entering = first if inputs else len(THRESHOLDS)
    stem, head, modules = 2 * 36, 3 * 36 * 2, 7
    return stem + first * 2 * 9 * 36 + sum(KEPT) * entering * 36 + head + modules


DENSE = 2 * 36 + 4 * 2 * 9 * 36 + 3 * 4 * 36 + 3 * 36 * 2


def test_each_image_costs_what_its_filters_cost():
    expected = [by_hand(brightness) / 1e9 for brightness in BRIGHTNESS]
    assert gmacs_executed(real=pictures(), target=subject()).tolist() == pytest.approx(expected, rel=1e-12)


def test_cuts_are_of_the_dense_count_with_and_without_the_input_side():
    both = [1 - by_hand(brightness) / DENSE for brightness in BRIGHTNESS]
    outputs = [1 - by_hand(brightness, inputs=False) / DENSE for brightness in BRIGHTNESS]
    assert gmacs_cut(real=pictures(), target=subject()).tolist() == pytest.approx(both, rel=1e-12)
    assert gmacs_cut_outputs(real=pictures(), target=subject()).tolist() == pytest.approx(outputs, rel=1e-12)
    assert both != outputs


def test_the_spread_is_the_deviation_of_the_share():
    shares = [by_hand(brightness) / DENSE for brightness in BRIGHTNESS]
    mean = sum(shares) / len(shares)
    deviation = (sum((share - mean) ** 2 for share in shares) / len(shares)) ** 0.5
    assert gmacs_spread(real=pictures(), target=subject()).item() == pytest.approx(deviation, rel=1e-9)


def test_equal_images_spread_nothing():
    assert gmacs_spread(real=pictures((0.6,) * 4), target=subject()).item() == 0


def test_a_dense_network_costs_its_dense_count_and_has_no_cut():
    roles = {"real": pictures(), "target": subject(gated=False)}
    assert gmacs_executed(**roles).tolist() == pytest.approx([DENSE / 1e9] * len(BRIGHTNESS), rel=1e-12)
    assert gmacs_executed(**roles)[0].item() == pytest.approx(gmacs(target=roles["target"]).item(), rel=1e-12)
    assert [metric(**roles) for metric in (gmacs_cut, gmacs_cut_outputs, gmacs_spread)] == [UNGATED] * 3


def test_of_many_images_some_are_looked_at_evenly_spread(monkeypatch):
    monkeypatch.setattr(_skipping, "MOST_IMAGES", 2)
    found = gmacs_executed(real=pictures(), target=subject())
    assert found.isnan().tolist() == [False, True, True, False, True]
    assert found[3].item() == pytest.approx(by_hand(BRIGHTNESS[3]) / 1e9)
    shares = torch.tensor([by_hand(BRIGHTNESS[place]) / DENSE for place in (0, 3)]).double()
    assert gmacs_spread(real=pictures(), target=subject()).item() == pytest.approx((shares[1] - shares[0]).item() / 2)


def test_images_are_looked_at_once_for_all_four():
    roles = {"real": pictures(), "target": subject()}
    for metric in (gmacs_executed, gmacs_cut, gmacs_cut_outputs, gmacs_spread):
        metric(**roles)
    assert roles["target"].passes.total == len(BRIGHTNESS)


def test_no_image_gives_no_value():
    roles = {"real": pictures()[:0], "target": subject()}
    assert gmacs_executed(**roles).shape == gmacs_cut(**roles).shape == (0,)
    assert gmacs_spread(**roles) == Undefined("there is no image")


def test_images_out_of_range_are_refused():
    with pytest.raises(ShapeError, match="real"):
        gmacs_executed(real=pictures() * 255, target=subject())
