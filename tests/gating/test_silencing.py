"""Silencing on a network whose gates are planted, so that what must be lost is known."""

import math

import pytest
import torch
from torch import nn

from bench.gating import Gate, attach, paths_of
from bench.gating import silencing as silence
from bench.gating.statistics import class_frequencies
from bench.zoo.classifier import Classifier

CLASSES, IMAGES, BACKUP = 4, 200, 0.3  # a share of the images shows its class a second time
LAYER = "2"


class PlantedGate(Gate):
    """Filter c is on where channel c is bright, for the first four; the others always are."""

    def scores(self, squeezed):
        bright = squeezed[:, :CLASSES] - 0.5
        return torch.cat([bright, torch.ones_like(squeezed[:, CLASSES:])], 1)


def planted_network():
    """Classes 0 to 3 by the brightest of two channels each; class 4 where nothing is bright."""
    stem, conv = (nn.Conv2d(8, 8, 1, bias=False) for _ in range(2))
    head = nn.Linear(8, 5)
    with torch.no_grad():
        for one in (stem, conv):
            one.weight.copy_(torch.eye(8)[:, :, None, None])
        head.weight.copy_(torch.cat([torch.eye(4).repeat(1, 2), torch.zeros(1, 8)]))
        head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.1]))
    network = nn.Sequential(stem, nn.ReLU(), conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    attach(network, lambda name, conv: PlantedGate())
    return network


@pytest.fixture(scope="module")
def model():
    return Classifier(
        planted_network(), name="planted", image_shape=(8, 2, 2), num_classes=5, mean=[0.0] * 8, std=[1.0] * 8, taps={}
    )


def planted_images():
    labels = torch.arange(IMAGES) % CLASSES
    has_backup = (torch.arange(IMAGES) // CLASSES) < BACKUP * IMAGES / CLASSES
    seen = torch.eye(CLASSES)[labels]
    return torch.cat([seen, seen * has_backup[:, None]], 1)[:, :, None, None].expand(-1, -1, 2, 2).clone(), labels


PICTURES, LABELS = planted_images()


def predicted(model, pictures=PICTURES, **forced):
    return silence.predictions_with(model, pictures, **forced)


def accuracies(model, **forced):
    return silence.class_accuracies(predicted(model, **forced), LABELS, 5)


def frequencies(model):
    return class_frequencies(paths_of(model, PICTURES).bits[LAYER], LABELS, 5)


def test_planted_class_filters_are_found(model):
    chosen = silence.class_filters(frequencies(model), 1)
    assert torch.equal(chosen[:4], torch.eye(4, 8, dtype=torch.bool))
    assert not chosen[4].any()  # a class without an image has no filters


def test_selectivity_of_planted_gates_is_the_planted_value(model):
    chosen = silence.class_filters(frequencies(model), 1)
    found = silence.silenced_accuracies(model, PICTURES, LABELS, LAYER, chosen, 5)
    drops = silence.drops_of_classes(accuracies(model), found)
    assert drops.own[:4].tolist() == pytest.approx([1 - BACKUP] * 4)
    assert drops.others[:4].tolist() == [0.0] * 4
    assert drops.selectivity[:4].tolist() == pytest.approx([1 - BACKUP] * 4)
    assert drops.selectivity[4].isnan()


def test_filters_of_another_class_cost_a_class_nothing(model):
    every = torch.eye(8, dtype=torch.bool)
    found = silence.silenced_accuracies(model, PICTURES, LABELS, LAYER, every, 5)
    for off in range(8):
        lost = 1 - found[off, :4]
        assert lost.tolist() == pytest.approx([1 - BACKUP if label == off else 0.0 for label in range(4)])


def test_equal_sets_are_run_once_and_an_empty_one_never(model):
    sets = torch.eye(8, dtype=torch.bool)[[0, 1, 0, 0]]
    sets = torch.cat([sets, torch.zeros(1, 8, dtype=torch.bool)])
    before = model.passes.forward
    found = silence.silenced_accuracies(model, PICTURES, LABELS, LAYER, sets, 5)
    assert model.passes.forward - before == 2 * IMAGES
    assert torch.equal(found[0, :4], found[2, :4]) and not torch.equal(found[0, :4], found[1, :4])
    assert found[4].isnan().all()


def test_no_sets_give_no_rows(model):
    none = torch.zeros(0, 8, dtype=torch.bool)
    assert silence.silenced_accuracies(model, PICTURES, LABELS, LAYER, none, 5).shape == (0, 5)


def test_the_network_is_as_it_was_afterwards(model):
    before = predicted(model)
    predicted(model, off={LAYER: torch.ones(8, dtype=torch.bool)})
    assert torch.equal(predicted(model), before) and torch.equal(before, LABELS)


def test_drops_by_plain_loops():
    before = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    silenced = torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drops = silence.drops_of_classes(before, silenced)
    for c in range(2):
        others = [before[d] - silenced[c, d] for d in range(3) if d != c]
        assert drops.own[c] == before[c] - silenced[c, c]
        assert drops.others[c].item() == pytest.approx(sum(others).item() / 2)


def test_sets_of_no_class_have_no_mean_selectivity():
    before, silenced = torch.rand(2, 5, dtype=torch.float64), torch.rand(7, 5, dtype=torch.float64)
    drops = silence.drops_of_any(before[0], silenced)
    assert drops.own.tolist() == pytest.approx((before[0] - silenced.mean(0)).tolist())
    assert drops.selectivity.mean().item() == pytest.approx(0.0, abs=1e-12)


# ---- controls ------------------------------------------------------------------------------------------------------


def test_random_sets_are_dynamic_filters_of_equal_number():
    rates = torch.tensor([0.0, 0.3, 0.5, 1.0, 0.7, 0.005, 0.2])
    found = silence.random_dynamic_filters(rates, 2, 50, torch.Generator().manual_seed(0))
    assert found.shape == (50, 7) and (found.sum(1) == 2).all()
    assert found.any(0).tolist() == [False, True, True, False, True, False, True]
    assert len(silence.random_dynamic_filters(rates, 5, 50, torch.Generator().manual_seed(0))) == 0


def test_most_active_filters_have_the_largest_means():
    activations = torch.tensor([[0.0, 3.0, 1.0, 1.0], [0.0, 1.0, 5.0, 2.0]])
    assert silence.most_active_filters(activations, 2).tolist() == [[False, True, True, False]]


def test_mean_and_random_paths_are_as_long_as_paths_are_on_average():
    bits = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 0]]).bool()
    assert silence.mean_path(bits).tolist() == [True, False, False, True, False]
    drawn = [silence.random_path(bits, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert {int(path.sum()) for path in drawn} == {2} and len({tuple(path.tolist()) for path in drawn}) > 3


# ---- fixed paths ---------------------------------------------------------------------------------------------------


def test_a_class_alone_on_its_path_is_what_the_network_still_sees(model):
    only_own = torch.eye(4, 8, dtype=torch.bool)
    found = silence.subnetwork_accuracies(model, PICTURES, LABELS, {LAYER: only_own}, 5)
    assert found[:, :4].tolist() == torch.eye(4).tolist() and found[:, 4].isnan().all()


def test_each_image_runs_on_its_own_row_whatever_the_batch(model):
    pictures = PICTURES[:131]  # no multiple of a batch, nor of what a batch is filled up to
    wanted = (torch.arange(131) // 3) % 2 == 0
    bits = torch.zeros(131, 8, dtype=torch.bool)
    bits[wanted] = True
    found = predicted(model, pictures, on={LAYER: bits})
    assert torch.equal(found, torch.where(wanted, LABELS[:131], 4))


def test_a_swapped_path_takes_the_prediction_where_it_must(model):
    bits = paths_of(model, PICTURES).bits
    swap = silence.path_swap(model, PICTURES, LABELS, bits, [LAYER], torch.Generator().manual_seed(0))
    # on the path of another class only the backup is seen; what has none becomes "nothing", never the donor's class
    assert swap == silence.Swap(to_donor=0.0, away=pytest.approx(1 - BACKUP), count=IMAGES)


def test_where_the_path_is_all_that_counts_the_prediction_follows_it():
    network = planted_network()
    with torch.no_grad():  # every filter sees the same picture: which are on is all that differs
        network[2].conv.weight.fill_(1.0)
    model = Classifier(
        network, name="paths", image_shape=(8, 2, 2), num_classes=5, mean=[0.0] * 8, std=[1.0] * 8, taps={}
    )
    pictures = torch.cat([PICTURES[:, :4], torch.zeros_like(PICTURES[:, :4])], 1)
    bits = {LAYER: paths_of(model, pictures).bits[LAYER].clone()}
    bits[LAYER][:, 4:] = False
    labels = predicted(model, pictures, on=bits)
    assert torch.equal(labels, LABELS)
    swap = silence.path_swap(model, pictures, labels, bits, [LAYER], torch.Generator().manual_seed(0))
    assert (swap.to_donor, swap.away) == (1.0, 1.0)


def test_one_class_has_nobody_to_swap_with(model):
    bits = paths_of(model, PICTURES[:8]).bits
    swap = silence.path_swap(model, PICTURES[:8], torch.zeros(8), bits, [LAYER], torch.Generator().manual_seed(0))
    assert swap.count == 0 and math.isnan(swap.to_donor)
