"""What skipping saves in time: ``python tests/perf/bench_gating.py [turns]``.

Networks with a controlling module at every gated layer and random bits, as many on in each layer as the rate says,
drawn for each image by itself. Four ways take turns on the same images, medians: the network without gates, the same
with batch norm folded, mask mode, skip mode. One thread, float32, 1 and 64 images, beside the multiply-adds.

- Skip mode and mask mode must agree to 1e-4 first.
- Skip mode is below the dense network at 1 image for on-rates of 0.7 and less in resnet18 (bar 1). A layer of the two
  smaller networks takes less than a tenth of a millisecond, and deciding and gathering take as much as skipping saves.

Without a bar: everything else, and which granularity would pay. In "settled" all images take one path, so that skip
mode keeps the kernels that it has cut: what gates for a group of images, a class or a data set would have. Beside it
one layer's convolution (a) dense, (b) with filters and input channels gathered, as skip mode does it, (c) with kernels
gathered beforehand, for shapes of the three networks. Exit status 1 when a bar is missed.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.gating import ControllingModule, attach, multiply_adds, skipping, watched
from bench.gating.plain import dense_copy, folded_copy
from bench.zoo.networks import untrained
from tests.perf.verdict import Verdict

THREADS = 1
RATES = (0.8, 0.7, 0.6, 0.5)
PAYS = {"resnet18": 0.7}  # from this on-rate down skip mode should be below the dense network at 1 image
AGREE = 1e-4
WARM_UP = 10
BATCHES = (1, 64)
PATHS = 4096  # more than turns: no image takes a path whose kernels have been cut before
NETWORKS = {"resnet20": 32, "resnet56": 32, "resnet18": 32}
SHAPES = ((16, 32), (32, 16), (64, 8), (64, 56), (128, 28), (256, 14), (512, 7))  # channels and pixels of a side
Run = Callable[[Tensor], Tensor]


class Drawn(ControllingModule):
    """A controlling module with its usual work, whose bits are drawn: each image has the next row of them."""

    def __init__(self, conv: nn.Conv2d, rate: float, paths: int) -> None:
        super().__init__(conv.in_channels, conv.out_channels)
        order = torch.rand(paths, conv.out_channels).argsort(1).argsort(1).repeat(max(1, max(BATCHES) // paths), 1)
        self.rows = torch.where(order < round(rate * conv.out_channels), 1.0, -1.0)
        self.count, self.next = len(self.rows), 0
        self.rows = self.rows.repeat(2, 1)  # a batch may begin at any of them
        self.expanding = torch.zeros_like(self.expand.weight).t()

    def scores(self, squeezed: Tensor) -> Tensor:
        """The rows instead of a bias."""
        hidden = F.relu(self.reduce(squeezed))
        end = self.next + squeezed.shape[0]
        rows, self.next = self.rows[self.next : end], end % self.count
        return torch.addmm(rows, hidden, self.expanding)


def gated(name: str, rate: float, paths: int = PATHS) -> nn.Module:
    """A network with random weights and gates of that rate, which images take in turns."""
    torch.manual_seed(0)
    side = NETWORKS[name]
    network = untrained(name, num_classes=10, image_shape=(3, side, side), mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    attach(network, lambda path, conv: Drawn(conv, rate, paths))
    return network.eval()


def in_turns(ways: Mapping[str, Run], images: Tensor, turns: int) -> tuple[dict[str, float], str]:
    """Median milliseconds of each; the same in words, with minima: where they tell different tales, it was busy."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(WARM_UP + turns):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            started = time.perf_counter()
            ways[name](images)
            taken[name].append(time.perf_counter() - started)
    counted = {name: [1000 * one for one in seconds[WARM_UP:]] for name, seconds in taken.items()}
    ms = {name: statistics.median(times) for name, times in counted.items()}
    return ms, ", ".join(f"{name} {ms[name]:.3g} [{min(times):.3g}]" for name, times in counted.items()) + " ms"


def compare(verdict: Verdict, name: str, rate: float, turns: int) -> None:
    """The four ways at both batch sizes."""
    counted, mask, skip, settled = gated(name, rate), gated(name, rate), gated(name, rate), gated(name, rate, paths=1)
    side = NETWORKS[name]
    images = torch.rand(max(BATCHES), 3, side, side, generator=torch.Generator().manual_seed(0))
    count = multiply_adds(counted, (3, side, side))
    with watched(counted) as seen:
        counted(images)
    bits = {path: shown.gates.bool() for path, shown in seen.items()}
    arithmetic = [count.dense / count.executed(bits, inputs=inputs).mean().item() for inputs in (True, False)]
    with skipping(skip), skipping(settled):
        ways: dict[str, Run] = {"dense": dense_copy(mask), "folded": folded_copy(mask), "mask": mask, "skip": skip}
        ways["settled"] = settled
        for batch in BATCHES:
            part = images[:batch]
            expected = mask(part)
            apart = ((skip(part) - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
            if apart > AGREE:
                raise SystemExit(f"{name}: skip mode is {apart:.1e} from mask mode at {batch} images")
            ms, shown = in_turns(ways, part, turns if batch == 1 else max(5, turns // 10))
            label = f"{name}, on-rate {rate}, batch {batch} ({shown}): skip over dense"
            if batch == 1 and rate <= PAYS.get(name, 0.0):
                verdict.at_most(label, ms["skip"] / ms["dense"], 1.0, "×")
            else:
                verdict.only(label, ms["skip"] / ms["dense"], "×")
            verdict.only("  dense over skip", ms["dense"] / ms["skip"], "×")
            verdict.only("  folded over skip", ms["folded"] / ms["skip"], "×")
            verdict.only("  dense over mask", ms["dense"] / ms["mask"], "×")
            verdict.only("  dense over settled", ms["dense"] / ms["settled"], "×")
        verdict.only("  multiply-adds, dense over executed", arithmetic[0], "×")
        verdict.only("  multiply-adds, the side of outputs alone", arithmetic[1], "×")


def show_granularity(verdict: Verdict, rate: float, turns: int) -> None:
    """One 3×3 convolution at 1 image: what gathering kernels for each image costs of what skipping saves."""
    for channels, side in SHAPES:
        torch.manual_seed(0)
        weight, images = torch.randn(channels, channels, 3, 3), torch.randn(1, channels, side, side)
        on = torch.randperm(channels)[: round(rate * channels)].sort().values
        few, ready = images[:, on].contiguous(), weight[on][:, on].contiguous()
        ways: dict[str, Run] = {
            "dense": lambda x, weight=weight: F.conv2d(x, weight, padding=1),
            "gathered": lambda x, weight=weight, on=on, few=few: F.conv2d(
                few, weight.index_select(0, on).index_select(1, on), padding=1
            ),
            "ready": lambda x, few=few, ready=ready: F.conv2d(few, ready, padding=1),
        }
        ms, shown = in_turns(ways, images, turns)
        verdict.only(
            f"{channels} channels, {side} px, on-rate {rate} ({shown}): gathered", ms["dense"] / ms["gathered"], "×"
        )
        verdict.only("  ready beforehand", ms["dense"] / ms["ready"], "×")


@torch.no_grad()
def main(turns: int = 100) -> int:
    """Measure and print; 1 when a bar is missed."""
    torch.set_num_threads(THREADS)
    verdict = Verdict()
    for name in NETWORKS:
        for rate in RATES:
            compare(verdict, name, rate, turns)
    show_granularity(verdict, 0.6, turns)
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
