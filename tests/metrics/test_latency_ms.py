"""Both latencies, on a clock that only the network moves."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from metrics import _timing
from metrics.latency_ms_batch1 import latency_ms_batch1
from metrics.latency_ms_batch64 import latency_ms_batch64

BOTH = pytest.mark.parametrize(("metric", "batch"), [(latency_ms_batch1, 1), (latency_ms_batch64, 64)])


class Slow(nn.Module):
    """Takes as many seconds as it is told, one pass after the other; the last again and again."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.now, self.shown = list(seconds), 0.0, []

    def forward(self, images):
        self.shown.append(images)
        self.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        return images


@pytest.fixture
def timed(monkeypatch):
    """A subject that takes these seconds."""

    def make(*seconds):
        network = Slow(seconds)
        monkeypatch.setattr(_timing.time, "perf_counter", lambda: network.now)
        return SimpleNamespace(network=network, image_shape=(3, 4, 5), normalise=lambda images: images - 0.5)

    return make


@BOTH
def test_it_is_the_median_in_milliseconds_without_the_first_three(timed, metric, batch):
    target = timed(9, 9, 9, 0.010, 0.050, 0.020, 0.030, 0.040)
    assert metric(target=target, repeats=5).item() == pytest.approx(30)
    assert len(target.network.shown) == 8
    assert all(images.shape == (batch, 3, 4, 5) and not images.any() for images in target.network.shown)


@BOTH
def test_a_slow_network_is_not_timed_for_ever(timed, metric, batch):
    target = timed(5.0)
    assert metric(target=target).item() == pytest.approx(5000)
    assert len(target.network.shown) == 3 + 3


@BOTH
def test_no_pass_is_counted_and_nothing_is_filled_up(tiny_classifier, metric, batch):
    seen = []
    tiny_classifier.network[0].register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    assert metric(target=tiny_classifier, repeats=3).item() > 0
    assert set(seen) == {batch}
    assert tiny_classifier.passes.total == 0
    assert torch.is_grad_enabled()
