"""What skipping saves in time, on a clock that only named parts of the network move."""

import pytest
import torch
from torch import nn

from bench.contract import Undefined
from bench.gating import ControllingModule, attach, gated_layers
from bench.zoo.classifier import Classifier
from metrics import _skipping
from metrics.mask_speedup_batch1 import mask_speedup_batch1
from metrics.skip_latency_ms_batch1 import skip_latency_ms_batch1
from metrics.skip_latency_ms_batch64 import skip_latency_ms_batch64
from metrics.skip_speedup_batch1 import skip_speedup_batch1
from metrics.skip_speedup_batch64 import skip_speedup_batch64
from metrics.skip_speedup_folded_batch1 import skip_speedup_folded_batch1

EVERY = (
    mask_speedup_batch1,
    skip_latency_ms_batch1,
    skip_latency_ms_batch64,
    skip_speedup_batch1,
    skip_speedup_batch64,
    skip_speedup_folded_batch1,
)
WAYS = 4  # dense, folded, mask, skip


class InParts(ControllingModule):
    """Skip mode calls the parts of a subclass, so that a hook on one of them sees every pass."""


def subject(gated=True):
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
    )
    if gated:
        attach(network, lambda path, conv: InParts(conv.in_channels, conv.out_channels))
    return Classifier(network, name="timed", image_shape=(1, 4, 4), num_classes=2, mean=[0.0], std=[1.0], taps={})


@pytest.fixture
def clocked(monkeypatch):
    """A gated subject: the head takes as many seconds as told (from the first pass on), a norm 5 ms, a gate 1 ms."""
    now = [0.0]
    monkeypatch.setattr(_skipping.time, "perf_counter", lambda: now[0])

    def make(*head_s):
        target, waiting = subject(), list(head_s)
        seen = []  # brightness of each batch, before the head

        def head(module, args, out):
            now[0] += waiting.pop(0) if len(waiting) > 1 else waiting[0]

        def tick(seconds):
            return lambda module, args, out: now.__setitem__(0, now[0] + seconds)

        target.network.register_forward_pre_hook(lambda module, args: seen.append(args[0].mean((1, 2, 3)).tolist()))
        target.network[-1].register_forward_hook(head)
        (layer,) = gated_layers(target.network).values()
        for norm in (target.network[1], layer.norm):
            norm.register_forward_hook(tick(0.005))
        layer.gate.expand.register_forward_hook(tick(0.001))
        return target, seen

    return make


def pictures(count=3):
    return torch.linspace(0, 1, count)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [  # in ms: dense 10 + 5 + 5, folded 10, mask 10 + 5 + 5 + 1, skip 10 + 5 (of the stem) + 1
        (skip_latency_ms_batch1, 16),
        (skip_latency_ms_batch64, 16),
        (skip_speedup_batch1, 20 / 16),
        (skip_speedup_batch64, 20 / 16),
        (skip_speedup_folded_batch1, 10 / 16),
        (mask_speedup_batch1, 20 / 21),
    ],
)
def test_each_way_takes_what_its_parts_take(clocked, metric, expected):
    target, _ = clocked(0.010)
    assert metric(real=pictures(), target=target).item() == pytest.approx(expected)


def test_it_is_a_median_without_ten_passes_of_each_way(clocked):
    odd_ones = [0.5] * WAYS * 3  # three of the ten turns that count
    target, _ = clocked(*[1.0] * WAYS * 10, *odd_ones, 0.010)
    assert skip_latency_ms_batch1(real=pictures(), target=target, repeats=10).item() == pytest.approx(16)


def test_a_slow_network_is_timed_ten_times(clocked):
    target, seen = clocked(0.3)  # 1.2 s a turn: twenty seconds are over before the tenth that counts
    assert skip_latency_ms_batch1(real=pictures(), target=target).item() == pytest.approx(306)
    assert len(seen) == WAYS * (10 + 10)


def test_a_slower_one_is_refused(clocked):
    target, _ = clocked(4.0)
    for metric in EVERY:
        answer = metric(real=pictures(), target=target)
        assert isinstance(answer, Undefined) and answer.reason.startswith("too slow")


@pytest.mark.parametrize("metric", EVERY)
def test_too_few_repeats_are_refused(metric):
    answer = metric(real=pictures(), target=subject(), repeats=9)
    assert answer == Undefined("a median of 9 passes says nothing, 10 are needed")


@pytest.mark.parametrize("metric", EVERY)
def test_a_network_without_gates_has_none(metric):
    assert metric(real=pictures(), target=subject(gated=False)) == Undefined("the network has no gates")


@pytest.mark.parametrize(("metric", "batch"), [(skip_latency_ms_batch1, 1), (skip_latency_ms_batch64, 64)])
def test_all_ways_see_the_same_images_and_each_turn_others(clocked, metric, batch):
    target, seen = clocked(0.010)
    assert metric(real=pictures(), target=target, repeats=10).item()
    brightness = [0.0, 0.5, 1.0]
    turns = [[brightness[(turn * batch + place) % 3] for place in range(batch)] for turn in range(20)]
    assert seen == [turn for turn in turns for _ in range(WAYS)]


def test_one_run_serves_all_metrics_of_a_batch_size(clocked):
    target, seen = clocked(0.010)
    real = pictures()
    for metric in (skip_latency_ms_batch1, skip_speedup_batch1, skip_speedup_folded_batch1, mask_speedup_batch1):
        metric(real=real, target=target)
    assert len(seen) == WAYS * (10 + 100)


def test_the_subject_is_left_alone(clocked):
    target, _ = clocked(0.010)
    before = target.checksum()
    assert skip_speedup_batch1(real=pictures(), target=target, repeats=10).item() > 0
    assert target.checksum() == before
    assert target.passes.total == 0
    assert all(layer.skip is None for layer in gated_layers(target.network).values())
    assert torch.is_grad_enabled()
