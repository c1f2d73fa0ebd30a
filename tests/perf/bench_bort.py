"""What Bort costs: ``python tests/perf/bench_bort.py [rounds] [training rounds]``.

The rival is the method as one would write it down: for every weight of every layer W Wᵀ − I, times W, by rows whatever
the shape, in new tensors, then the rule of SGD or AdamW. Ours and the rival's make one step from equal weights first,
and must agree to 1e-6. Then both take turns on copies of the same network with the same gradients. Ratios are of
medians; minima stand beside them in brackets. Two CPU threads, float32; ours and the stock optimizer with torch's
fused kernels, which Bort hands on.

- Step: the whole step of the optimizer on the weights of ResNet-18 (bar 0.85), ResNet-50 (0.65) and DeiT-S (0.5).
- Guard: the same step against what it cannot do without, in the same rounds: for every weight two matrix products by
  its shorter side, into memory that is there already, and the stock step (bar 1.2).
- Training: forward, backward and step of a ResNet-18 for 32 × 32 pixels at batch 128, against the stock optimizer's
  (bar 1.06).

Without a bar: the modes that look at norms alone, and γ = 0, against the stock step. Exit status 1 when a bar is
missed.
"""

import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.zoo.networks import untrained
from methods.training._bort import BortAdamW, BortSGD, bort_param_groups
from tests.perf.verdict import Verdict

THREADS = 2
GAMMA, SGD_RATE, ADAM_RATE, MOMENTUM = 0.1, 0.01, 1e-3, 0.9
STEP_BARS = {"resnet18": 0.85, "resnet50": 0.65, "deit_small": 0.5}
GUARD_BAR = 1.2
TRAINING_BAR = 1.06
AGREE = 1e-6
DIAGONAL = ("l2-row", "l2-col", "l1-row", "l1-col")
Step = Callable[[], object]


def build(name: str) -> nn.Module:
    """A network with gradients: small random numbers."""
    import timm
    import torchvision

    torch.manual_seed(0)
    makers: Mapping[str, Callable[[], nn.Module]] = {
        "resnet18": torchvision.models.resnet18,
        "resnet50": torchvision.models.resnet50,
        "deit_small": lambda: timm.create_model("deit_small_patch16_224"),
    }
    network = makers[name]()
    for parameter in network.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    return network


def with_gradients(network: nn.Module) -> nn.Module:
    """A copy that has gradients of its own."""
    copied = copy.deepcopy(network)
    for one, other in zip(copied.parameters(), network.parameters(), strict=True):
        assert other.grad is not None
        one.grad = other.grad.clone()
    return copied


# ---- the rival -----------------------------------------------------------------------------------------------------


def plain_correction(weight: Tensor) -> Tensor:
    """(W Wᵀ − I) W, by rows."""
    flat = weight.reshape(len(weight), -1)
    return ((flat @ flat.T - torch.eye(len(flat))) @ flat).view_as(weight)


def constrained_in(network: nn.Module) -> set[int]:
    """What ours constrains in these networks: the weights of convolutions and linear layers."""
    return {id(module.weight) for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def plain_sgd(network: nn.Module) -> Step:
    """SGD with momentum and the coupled rule, parameter by parameter."""
    constrained, buffers = constrained_in(network), {p: torch.zeros_like(p) for p in network.parameters()}

    @torch.no_grad()
    def step() -> None:
        for parameter, buffer in buffers.items():
            gradient = parameter.grad
            assert gradient is not None
            if id(parameter) in constrained:
                gradient = gradient + GAMMA * plain_correction(parameter)
            buffer.mul_(MOMENTUM).add_(gradient)
            parameter.sub_(SGD_RATE * buffer)

    return step


def plain_adamw(network: nn.Module) -> Step:
    """AdamW without decay and with the decoupled rule, parameter by parameter."""
    constrained = constrained_in(network)
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in network.parameters()}
    taken = 0

    @torch.no_grad()
    def step() -> None:
        nonlocal taken
        taken += 1
        for parameter, (mean, square) in moments.items():
            gradient = parameter.grad
            assert gradient is not None
            if id(parameter) in constrained:
                parameter.sub_(ADAM_RATE * GAMMA * plain_correction(parameter))
            mean.mul_(0.9).add_(0.1 * gradient)
            square.mul_(0.999).add_(0.001 * gradient**2)
            spread = square.sqrt() / math.sqrt(1 - 0.999**taken) + 1e-8
            parameter.sub_(ADAM_RATE / (1 - 0.9**taken) * mean / spread)

    return step


def our_sgd(network: nn.Module, gamma: float = GAMMA, mode: str = "l2-full") -> Step:
    """BortSGD with torch's fused kernels."""
    groups = bort_param_groups(network, gamma=gamma, mode=mode, weight_decay=0.0)
    return BortSGD(groups, lr=SGD_RATE, momentum=MOMENTUM, fused=True).step


def our_adamw(network: nn.Module, gamma: float = GAMMA, mode: str = "l2-full") -> Step:
    """BortAdamW with torch's fused kernels."""
    groups = bort_param_groups(network, gamma=gamma, mode=mode, weight_decay=0.0)
    return BortAdamW(groups, lr=ADAM_RATE, fused=True).step


def two_products(network: nn.Module, stock: torch.optim.Optimizer) -> Step:
    """W Wᵀ and its product with W, by columns where these are fewer, all thrown away; then the stock step."""
    constrained = constrained_in(network)
    shorter = []
    for parameter in network.parameters():
        if id(parameter) in constrained:
            matrix = parameter.detach().flatten(1)
            shorter.append(matrix if len(matrix) <= matrix.shape[1] else matrix.T)
    grams = [torch.empty(len(matrix), len(matrix)) for matrix in shorter]
    products = [torch.empty_like(matrix) for matrix in shorter]

    def step() -> None:
        for matrix, gram, product in zip(shorter, grams, products, strict=True):
            torch.mm(matrix, matrix.T, out=gram)
            torch.mm(gram, matrix, out=product)
        stock.step()

    return step


def bare_sgd(network: nn.Module) -> Step:
    """The products and torch's fused SGD."""
    return two_products(network, torch.optim.SGD(network.parameters(), lr=SGD_RATE, momentum=MOMENTUM, fused=True))


def bare_adamw(network: nn.Module) -> Step:
    """The products and torch's fused AdamW."""
    return two_products(network, torch.optim.AdamW(network.parameters(), lr=ADAM_RATE, weight_decay=0.0, fused=True))


RIVALS = {"sgd": (our_sgd, plain_sgd, bare_sgd), "adamw": (our_adamw, plain_adamw, bare_adamw)}


# ---- figures -------------------------------------------------------------------------------------------------------


def times_s(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round, all taking turns, after one round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if round_:
                taken[name].append(time.perf_counter() - started)
    return taken


def described(seconds: Mapping[str, Sequence[float]]) -> str:
    """Medians and minima: where they tell different tales, the machine was busy."""
    figures = {who: (1e3 * statistics.median(times), 1e3 * min(times)) for who, times in seconds.items()}
    return ", ".join(f"{who} {median:.0f} [{least:.0f}] ms" for who, (median, least) in figures.items())


def ratio(seconds: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """Of medians."""
    return statistics.median(seconds[one]) / statistics.median(seconds[other])


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    """Between any two weights, relative to the largest of their tensor where that is above 1."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs)


def compare_steps(verdict: Verdict, name: str, rounds: int) -> None:
    """Ours against the rival, and against the least that it could be, on one network's weights."""
    start = build(name)
    for rule, (ours, plain, bare) in RIVALS.items():
        networks = {"ours": with_gradients(start), "plain": with_gradients(start)}
        steps = {"ours": ours(networks["ours"]), "plain": plain(networks["plain"])}
        for step in steps.values():
            step()
        apart = largest_difference(networks["ours"], networks["plain"])
        if apart > AGREE:
            raise SystemExit(f"{name}, {rule}: {apart:.2e} apart after one step")
        seconds = times_s(steps | {"bare": bare(with_gradients(start))}, rounds)
        verdict.at_most(
            f"{name}, {rule} step ({described(seconds)}; {apart:.0e} apart)",
            ratio(seconds, "ours", "plain"),
            STEP_BARS[name],
            "×",
        )
        verdict.at_most(
            f"{name}, {rule} step over two products and stock", ratio(seconds, "ours", "bare"), GUARD_BAR, "×"
        )


def show_cheap_modes(verdict: Verdict, rounds: int) -> None:
    """The modes without a Gram matrix, and no constraint at all, against stock SGD on ResNet-18."""
    start = build("resnet18")
    stock = with_gradients(start)
    steps: dict[str, Step] = {
        "stock": torch.optim.SGD(stock.parameters(), lr=SGD_RATE, momentum=MOMENTUM, fused=True).step
    }
    steps["γ = 0"] = our_sgd(with_gradients(start), gamma=0.0)
    for mode in DIAGONAL:
        steps[mode] = our_sgd(with_gradients(start), mode=mode)
    seconds = times_s(steps, rounds)
    for name in list(steps)[1:]:
        verdict.only(f"resnet18, sgd step, {name}, over stock", ratio(seconds, name, "stock"), "×")


def compare_training(verdict: Verdict, rounds: int) -> None:
    """A whole training step at batch 128, with Bort and without."""
    network = untrained("resnet18", num_classes=10, image_shape=(3, 32, 32), mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    images, labels = torch.rand(128, 3, 32, 32), torch.arange(128) % 10
    for rule, ours, stock in (
        ("sgd", our_sgd, lambda p: torch.optim.SGD(p, lr=SGD_RATE, momentum=MOMENTUM, fused=True)),
        ("adamw", our_adamw, lambda p: torch.optim.AdamW(p, lr=ADAM_RATE, fused=True)),
    ):
        bort, plain = copy.deepcopy(network), copy.deepcopy(network)
        steps = {"bort": ours(bort), "stock": stock(plain.parameters()).step}

        def train(trained: nn.Module, step: Step) -> None:
            for parameter in trained.parameters():
                parameter.grad = None
            F.cross_entropy(trained(images), labels).backward()
            step()

        turns = {
            "bort": lambda bort=bort, step=steps["bort"], train=train: train(bort, step),
            "stock": lambda plain=plain, step=steps["stock"], train=train: train(plain, step),
        }
        seconds = times_s(turns, rounds)
        verdict.at_most(
            f"training step of a CIFAR ResNet-18 by {rule}, batch 128 ({described(seconds)})",
            ratio(seconds, "bort", "stock"),
            TRAINING_BAR,
            "×",
        )


def main(rounds: int = 9, training_rounds: int = 5) -> int:
    """Measure and print; 1 when a bar is missed."""
    torch.set_num_threads(THREADS)
    verdict = Verdict()
    for name in STEP_BARS:
        compare_steps(verdict, name, rounds)
    show_cheap_modes(verdict, rounds)
    compare_training(verdict, training_rounds)
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
