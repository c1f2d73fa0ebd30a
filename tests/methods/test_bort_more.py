"""Bort every k steps, clipped and compiled, and all its paths against one loop."""

import copy
import math
import pickle
import shutil
import sys
import warnings

import pytest
import torch
from timm.optim.lamb import Lamb
from torch import nn

from methods.training import _bort
from methods.training._bort import BortAdamW, BortSGD, bort_param_groups
from methods.training._bort_correction import MODES, add_correction_, add_corrections_
from methods.training._bort_lamb import BortLamb

STOCK = {BortSGD: torch.optim.SGD, BortAdamW: torch.optim.AdamW, BortLamb: Lamb}
every_kind = pytest.mark.parametrize("kind", STOCK)
SHAPES = [(5, 12), (7, 7), (12, 5)]  # wide, square, tall


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def drawn(*shape, seed=0, size=0.4):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameter(*shape, seed=0, size=0.4):
    return nn.Parameter(drawn(*shape, seed=seed, size=size))


def pull(weight, amplitude=1.0):
    """Δ of l2-full, by rows whatever the shape."""
    return weight @ weight.T @ weight - amplitude * weight


def follow(optimizer, weight, steps, start=0):
    """Take steps with gradients that do not depend on the weight."""
    for step in range(start, start + steps):
        weight.grad = drawn(*weight.shape, seed=100 + step, size=0.05)
        optimizer.step()
    return weight.detach()


# ---- every k steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_adds_k_gamma_to_every_kth_gradient(shape, every, nesterov):
    weight = parameter(*shape)
    expected, buffer = weight.detach().clone(), torch.zeros(shape).double()
    optimizer = BortSGD(
        [weight], lr=0.05, gamma=0.3, every=every, momentum=0.8, nesterov=nesterov, weight_decay=0.01
    )  # fmt: skip
    for step in range(8):
        gradient = drawn(*shape, seed=100 + step, size=0.05)
        if (step + 1) % every == 0:
            gradient = gradient + every * 0.3 * pull(expected)
        gradient = gradient + 0.01 * expected
        buffer = 0.8 * buffer + gradient
        expected = expected - 0.05 * (gradient + 0.8 * buffer if nesterov else buffer)
    torch.testing.assert_close(follow(optimizer, weight, 8), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [BortAdamW, BortLamb])
def test_the_decoupled_optimizers_move_every_kth_weight_by_k_gamma(shape, kind):
    weight, plain = parameter(*shape), parameter(*shape)
    stock = {"always_adapt": True} if kind is BortLamb else {}
    optimizer = kind([weight], lr=0.02, gamma=0.5, every=4, amplitude=0.7)
    reference = STOCK[kind]([plain], lr=0.02, weight_decay=0.0, **stock)
    for step in range(10):
        if step in (3, 7):
            plain.data -= 0.02 * 4 * 0.5 * pull(plain.data, 0.7)
        follow(reference, plain, 1, start=step)
    torch.testing.assert_close(follow(optimizer, weight, 10), plain.detach(), rtol=1e-12, atol=1e-12)


@every_kind
def test_each_group_counts_its_own_steps_and_says_so(kind):
    one, other = parameter(4, 6), parameter(4, 6, seed=1)
    optimizer = kind([{"params": [one], "every": 2}, {"params": [other], "every": 5}], lr=0.01, gamma=0.1)
    optimizer.add_param_group({"params": [parameter(3, 3)]})
    for weight in (one, other):
        weight.grad = torch.zeros_like(weight)
    for _ in range(3):
        optimizer.step()
    saved = optimizer.state_dict()["param_groups"]
    assert [(group["every"], group["uncorrected"]) for group in saved] == [(2, 1), (5, 3), (1, 0)]


@every_kind
def test_a_continued_run_corrects_at_the_same_steps_bit_for_bit(kind):
    whole, weight = parameter(6, 9), parameter(6, 9)
    follow(kind([whole], lr=0.01, gamma=0.5, every=3), whole, 7)
    first = kind([weight], lr=0.01, gamma=0.5, every=3)
    follow(first, weight, 4)
    second = kind([weight], lr=0.3, gamma=0.1)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    follow(pickle.loads(pickle.dumps(second)), nn.Parameter(weight.detach().clone()), 0)  # what is pickled loads
    follow(second, weight, 3, start=4)
    assert torch.equal(weight, whole)


@every_kind
def test_states_pass_through_a_stock_optimizer_and_a_stock_state_leaves_the_count_alone(kind):
    weight = parameter(6, 9)
    bort = kind([weight], lr=0.01, gamma=0.5, every=3, clip_correction=True)
    follow(bort, weight, 4)
    stock = STOCK[kind]([weight], lr=0.01)
    untouched = copy.deepcopy(stock.state_dict())
    stock.load_state_dict(bort.state_dict())
    follow(stock, weight, 2)  # unconstrained
    back = kind([weight], lr=0.01, gamma=0.5)
    back.load_state_dict(stock.state_dict())
    group = back.param_groups[0]
    assert (group["every"], group["uncorrected"], group["clip_correction"]) == (3, 1, True)
    bort.load_state_dict(untouched)
    group = bort.param_groups[0]
    assert (group["every"], group["uncorrected"], group["clip_correction"]) == (3, 1, True)


@every_kind
def test_a_refused_step_is_not_counted(kind):
    weight = parameter(4, 6)
    optimizer = kind([weight], lr=0.01, gamma=0.1, every=3, error_if_nonfinite=True)
    weight.grad = torch.full_like(weight, math.nan)
    with pytest.raises(RuntimeError, match="not finite"):
        optimizer.step()
    assert optimizer.param_groups[0]["uncorrected"] == 0


@every_kind
@pytest.mark.parametrize("every", [0, -2, 1.5, True, None, "2"])
def test_every_is_a_whole_number_from_one(kind, every):
    with pytest.raises(ValueError, match=f"parameter group 0: every should be a whole number ≥ 1, got {every!r}"):
        kind([parameter(3, 4)], gamma=0.1, every=every)
    optimizer = kind([parameter(3, 4)], gamma=0.1)
    optimizer.param_groups[0]["every"] = every
    with pytest.raises(ValueError, match="every should be"):
        optimizer.step()


@every_kind
@pytest.mark.parametrize(("gamma", "outcome"), [(0.09, "quiet"), (0.11, "warns"), (0.21, "raises")])
def test_the_limits_are_those_of_k_gamma(kind, gamma, outcome):
    def make(gamma):
        return kind([parameter(3, 8, size=0.05)], lr=1.0, gamma=gamma, every=10)

    if outcome == "quiet":
        make(gamma)
    elif outcome == "warns":
        with pytest.warns(UserWarning, match=r"every × a = 1.1 is beyond 1, not stable; .* is 0\.1$"):
            make(gamma)
    else:
        with pytest.raises(ValueError, match=r"makes the weights diverge: a = 1; .* is 0\.1$"):
            make(gamma)


@pytest.mark.parametrize("kind", [BortSGD, BortAdamW])
def test_an_l1_step_is_judged_by_k_gamma(kind):
    weight = parameter(1, 9)
    kind([weight], lr=1.0, gamma=0.019, every=5, mode="l1-row")
    with pytest.warns(UserWarning, match=r"about 10 %; the largest calm gamma is 0\.02 / step size"):
        kind([weight], lr=1.0, gamma=0.0201, every=5, mode="l1-row")


@pytest.mark.parametrize("every", [1, 2, 10])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("ratio", "stays"), [(0.97, True), (1.03, False)])
def test_momentum_holds_the_constraint_up_to_its_limit_at_k_gamma(every, nesterov, ratio, stays):
    mu = 0.8
    if nesterov:
        limit = (1 + mu**every) * (1 - mu) / (1 + mu**every - 2 * mu ** (every + 1))
    else:
        limit = (1 + mu**every) * (1 - mu) / (1 - mu**every)
    weight = nn.Parameter(torch.tensor([[1.0 + 1e-6, 0.0]]).double())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = BortSGD(
            [weight], lr=1.0, gamma=ratio * limit / every, every=every, momentum=mu, nesterov=nesterov
        )  # fmt: skip
    weight.grad = torch.zeros_like(weight)
    for _ in range(300 * every):
        weight.grad.zero_()
        optimizer.step()
        if (weight.detach()[0, 0].abs() - 1).abs() > 1e-3:
            break
    off = (weight.detach()[0, 0].abs() - 1).abs()
    assert off < 1e-7 if stays else off > 1e-3


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_momentum_that_is_not_stable_at_k_gamma_is_told(nesterov):
    settings = {"lr": 1.0, "every": 20, "momentum": 0.8, "nesterov": nesterov}
    BortSGD([parameter(3, 8, size=0.05)], gamma=0.19 / 20, **settings)
    with pytest.warns(UserWarning, match="every × a = 0.22 is beyond 0.2"):
        BortSGD([parameter(3, 8, size=0.05)], gamma=0.22 / 20, **settings)


# ---- clipping ------------------------------------------------------------------------------------------------------


def clipped(weight, amplitude, mode, strength):
    """The correction, × min(1, ½ / (strength × norm)), with R written out; the norm as documented, by loops."""
    rows, columns = weight @ weight.T, weight.T @ weight
    by_rows = len(rows) <= len(columns) if mode == "l2-full" else mode.endswith("row")
    gram = rows if by_rows else columns
    apart = gram - amplitude * torch.eye(len(gram)).double()
    if "full" not in mode:
        apart = apart.diag().diag()
    if mode.startswith("l1"):
        apart = apart.sign()
    spectral = torch.linalg.matrix_norm(apart, 2).item()
    norm = min(
        math.sqrt(sum(entry**2 for row in apart.tolist() for entry in row)),
        max(sum(abs(entry) for entry in row) for row in apart.tolist()),
    )
    norm = norm if "full" in mode else spectral
    assert norm >= spectral * (1 - 1e-12)
    share = min(1.0, 0.5 / (strength * norm))
    return share * (apart @ weight if by_rows else weight @ apart), share


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [1e-3, 3.0])
def test_a_clipped_correction_is_a_plain_loops_alone_and_in_a_batch(mode, shape, strength):
    rows, columns = shape
    weight, sizes = drawn(2 * rows, columns, size=1.0), torch.tensor([1.0, 0.1]).double().repeat_interleave(rows)
    weight *= sizes[:, None]  # two matrices, to be weakened each by its own share
    wanted, shares = zip(*(clipped(part, 0.6, mode, strength) for part in weight.chunk(2)), strict=True)
    assert (max(shares) < 1) == (strength > 1)
    how = {"amplitude": 0.6, "mode": mode, "alpha": 0.2, "shrink": 1.0, "clip_at": strength}
    alone, batched = torch.zeros_like(weight), torch.zeros_like(weight)
    add_correction_(alone, weight, blocks=2, **how)
    parts = list(batched.chunk(2))
    add_corrections_(parts, list(weight.chunk(2)), blocks=[1, 1], **how)
    torch.testing.assert_close(alone, 0.2 * torch.cat(wanted), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(batched, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("every", [1, 3])
def test_the_optimizers_clip_by_step_size_times_k_gamma_and_what_momentum_adds(shape, every):
    start = drawn(*shape, size=1.5)
    lr, gamma = 0.2, 0.4
    adam, sgd = (nn.Parameter(start.clone()) for _ in range(2))
    for weight, kind, extra in ((adam, BortAdamW, {}), (sgd, BortSGD, {"momentum": 0.5})):
        optimizer = kind([weight], lr=lr, gamma=gamma, every=every, clip_correction=True, **extra)
        for _ in range(every):
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
    delta, share = clipped(start, 1.0, "l2-full", lr * gamma * every)
    assert share < 1
    torch.testing.assert_close(adam.detach(), start - lr * gamma * every * delta, rtol=1e-12, atol=1e-12)
    gain = sum(0.5**step for step in range(every))
    delta, _ = clipped(start, 1.0, "l2-full", lr * gamma * every * gain)
    torch.testing.assert_close(sgd.detach(), start - lr * gamma * every * delta, rtol=1e-12, atol=1e-12)


@every_kind
def test_weights_too_large_for_their_step_come_back_when_clipped(kind):
    settings = {"lr": 0.1, "gamma": 1.0, "weight_decay": 0.0}
    with pytest.raises(ValueError, match="diverge"):
        kind([parameter(4, 8, size=20.0)], **settings)
    weight = parameter(4, 8, size=20.0)
    optimizer = kind([weight], clip_correction=True, **settings)
    for _ in range(400):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    torch.testing.assert_close(torch.linalg.svdvals(weight.detach()), torch.ones(4).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("every", [1, 10])
def test_clipped_weights_come_back_under_strong_momentum(nesterov, every):
    weight = parameter(4, 8, size=20.0)
    optimizer = BortSGD(
        [weight], lr=0.1, gamma=0.5 / every, every=every, momentum=0.9, nesterov=nesterov, clip_correction=True
    )  # fmt: skip
    for _ in range(400 * every):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    torch.testing.assert_close(torch.linalg.svdvals(weight.detach()), torch.ones(4).double(), rtol=0, atol=1e-6)


@every_kind
def test_an_unstable_target_is_told_when_clipped_but_not_refused(kind):
    with pytest.warns(UserWarning, match="not stable; .* is 1$"):
        optimizer = kind([parameter(3, 8, size=0.05)], lr=1.0, gamma=2.5, clip_correction=True)
    weight = optimizer.param_groups[0]["params"][0]
    for _ in range(200):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert torch.linalg.svdvals(weight.detach()).max() < 3


@every_kind
def test_a_correction_that_is_weak_enough_is_not_clipped(kind):
    free, held = parameter(5, 9), parameter(5, 9)
    follow(kind([free], lr=0.01, gamma=0.3), free, 5)
    follow(kind([held], lr=0.01, gamma=0.3, clip_correction=True), held, 5)
    assert torch.equal(free, held)


@every_kind
def test_zero_weights_and_a_step_size_of_zero_are_not_clipped_to_anything_else(kind):
    weight = nn.Parameter(torch.zeros(3, 5).double())
    optimizer = kind([weight], lr=0.0, gamma=0.3, clip_correction=True)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight, torch.zeros(3, 5).double())


def test_a_clipped_step_size_on_the_device_is_not_asked_for_its_value():
    weight = torch.empty(4, 6, device="meta")
    how = {"amplitude": "ada", "mode": "l2-full", "shrink": torch.empty((), device="meta"), "blocks": 1}
    rate = torch.empty((), device="meta")  # whoever looks raises
    add_correction_(weight, weight, alpha=rate, clip_at=rate, **how)
    add_corrections_([weight], [weight], alpha=rate, clip_at=rate, **how | {"blocks": [1]})


# ---- all paths against one loop ------------------------------------------------------------------------------------


class Attention(nn.Module):
    """A fused projection, named as timm does."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.qkv = 2, nn.Linear(8, 24)


class OneOfEach(nn.Module):
    """Wide, tall, grouped and depthwise kernels, equal shapes among them, and both kinds of fused query, key, value."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)
        self.tall, self.grouped = nn.Conv2d(2, 20, 2), nn.Conv2d(8, 12, 3, groups=2)
        self.depthwise, self.norm = nn.Conv2d(5, 5, 3, groups=5), nn.BatchNorm2d(5)
        self.attention, self.fused = Attention(), nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 3)


PARTS = {"grouped.weight": 2, "depthwise.weight": 5, "attention.qkv.weight": 3, "fused.in_proj_weight": 3}


def one_of_each():
    torch.manual_seed(0)
    network = OneOfEach().double()
    for place, one in enumerate(network.parameters()):
        one.grad = drawn(*one.shape, seed=place, size=0.1)
    return network


def loop_of_rows(network, gamma):
    """Every weight matrix by itself: flattened after its first axis, corrected by rows whatever its shape."""
    moves = {}
    for name, one in network.named_parameters():
        if one.ndim >= 2:
            parts = one.detach().chunk(PARTS.get(name, 1))
            moves[name] = gamma * torch.cat([pull(part.flatten(1)).view_as(part) for part in parts])
    return moves


def by_shape(weights):
    """What is put together where launches are dear."""
    alike = {}
    for weight in weights:
        alike.setdefault(weight.shape, []).append(weight)
    return iter(alike.values())


@every_kind
@pytest.mark.parametrize("path", ["alone", "bucketed"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_grouped_split_channels_last_and_bucketed_weights_move_as_by_the_loop(kind, path, layout, monkeypatch):
    if path == "bucketed":
        monkeypatch.setattr(_bort, "_buckets", by_shape)
    network, plain = one_of_each(), one_of_each()
    if layout == "channels_last":
        network = network.to(memory_format=torch.channels_last)  # gradients too
        assert not any(one.is_contiguous() for one in (network.tall.weight, network.tall.weight.grad))
    groups = bort_param_groups(network, gamma=0.4, split_qkv=True, weight_decay=0.0)
    kind(groups, lr=0.03).step()
    moves = loop_of_rows(plain, 0.4)
    adapt = {"always_adapt": True} if kind is BortLamb else {}
    matrices = [one for one in plain.parameters() if one.ndim >= 2]
    vectors = [one for one in plain.parameters() if one.ndim < 2]
    for name, move in moves.items():
        one = plain.get_parameter(name)
        (one.grad if kind is BortSGD else one.data).add_(move, alpha=1.0 if kind is BortSGD else -0.03)
    STOCK[kind]([{"params": matrices, **adapt}, {"params": vectors}], lr=0.03, weight_decay=0.0).step()
    for (name, one), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12, check_stride=False, msg=lambda m, n=name: n + m)


needs_compiler = pytest.mark.skipif(
    sys.platform == "win32" or not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler"
)


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # torch's own, of its compiler
def test_a_compiled_bucket_is_the_loop_in_one_graph():
    compiled = torch.compile(add_corrections_, fullgraph=True, dynamic=False)
    weights = [drawn(12, 10), drawn(6, 10, seed=1), drawn(6, 2, 5, seed=2)]  # of the first, two matrices
    targets = [torch.zeros_like(weight) for weight in weights]
    how = {"amplitude": 0.7, "mode": "l2-full", "alpha": 0.3, "shrink": 0.9, "clip_at": 0.4}
    compiled(targets, weights, blocks=[2, 1, 1], **how)
    for target, weight, parts in zip(targets, weights, (2, 1, 1), strict=True):
        wanted = [0.3 * clipped(0.9 * part.flatten(1), 0.7, "l2-full", 0.4)[0] / 0.9 for part in weight.chunk(parts)]
        torch.testing.assert_close(target, torch.cat(wanted).view_as(target), rtol=1e-12, atol=1e-12)


@needs_compiler
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", SHAPES[::2])
def test_a_compiled_correction_is_the_formula_in_one_graph(shape):
    weight = drawn(*shape)
    torch.compile(add_correction_, fullgraph=True, dynamic=False)(
        weight, weight, blocks=1, amplitude=1.0, mode="l2-full", alpha=-0.1, shrink=1.0
    )
    torch.testing.assert_close(weight, drawn(*shape) - 0.1 * pull(drawn(*shape)), rtol=1e-12, atol=1e-12)
