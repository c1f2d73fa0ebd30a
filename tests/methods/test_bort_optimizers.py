"""BortSGD, BortAdamW and BortLamb against the rules written out, against penalties in the loss, and against torch."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from timm.optim.lamb import Lamb
from torch import nn

from methods.training._bort import BortAdamW, BortSGD, bort_param_groups
from methods.training._bort_lamb import BortLamb

SHAPES = [(5, 12), (7, 7), (12, 5)]  # wide, square, tall
MODES = ["l2-full", "l2-row", "l2-col", "l1-fullrow", "l1-fullcol", "l1-row", "l1-col"]
STOCK = {BortSGD: torch.optim.SGD, BortAdamW: torch.optim.AdamW, BortLamb: Lamb}
OPTIMIZERS = list(STOCK)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.4


def parameter(*shape, seed=0):
    return nn.Parameter(drawn(*shape, seed=seed))


def gradients(shape, steps):
    return [0.1 * drawn(*shape, seed=100 + step) for step in range(steps)]


def follow(optimizer, weight, steps):
    """Take steps with gradients that do not depend on the weight."""
    for gradient in gradients(weight.shape, steps):
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def soft_orthogonality(weight):
    return (weight @ weight.T - torch.eye(len(weight))).square().sum()


def double_soft_orthogonality(weight):
    columns = weight.shape[1]
    return soft_orthogonality(weight) + (weight.T @ weight - torch.eye(columns)).square().sum()


def correction(weight, amplitude, mode):
    """The table of corrections, with both Gram matrices written out."""
    if amplitude == "ada":
        amplitude = weight.norm(dim=1).mean() ** 2
    rows, columns = weight @ weight.T, weight.T @ weight
    a_rows, a_columns = amplitude * torch.eye(len(rows)).double(), amplitude * torch.eye(len(columns)).double()
    if mode == "l1-fullrow" and len(rows) > len(columns):
        mode = "l1-fullcol"
    elif mode == "l1-fullcol" and len(rows) < len(columns):
        mode = "l1-fullrow"
    return {
        "l2-full": lambda: (rows - a_rows) @ weight,
        "l2-row": lambda: rows.diag().diag() @ weight - amplitude * weight,
        "l2-col": lambda: weight @ columns.diag().diag() - amplitude * weight,
        "l1-fullrow": lambda: (rows - a_rows).sign() @ weight,
        "l1-fullcol": lambda: weight @ (columns - a_columns).sign(),
        "l1-row": lambda: (rows.diag() - amplitude).sign().diag() @ weight,
        "l1-col": lambda: weight @ (columns.diag() - amplitude).sign().diag(),
    }[mode]()


# ---- the rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("penalty", "share"), [(soft_orthogonality, 1 / 4), (double_soft_orthogonality, 1 / 8)], ids=["so", "dso"]
)
def test_sgd_with_bort_is_sgd_with_soft_orthogonality_in_the_loss(shape, nesterov, penalty, share):
    gamma, settings = 0.3, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    ours, theirs = parameter(*shape), parameter(*shape)
    bort, sgd = BortSGD([ours], gamma=gamma, **settings), torch.optim.SGD([theirs], **settings)
    data = drawn(shape[1], 40, seed=1)
    for step in range(50):
        for weight, optimizer in ((ours, bort), (theirs, sgd)):
            optimizer.zero_grad()
            loss = (weight @ data[:, step % 40] - 1).tanh().square().sum()
            if weight is theirs:
                loss = loss + gamma * share * penalty(weight)
            loss.backward()
            optimizer.step()
    assert (ours - theirs).abs().max() < 1e-10
    assert (ours - parameter(*shape)).abs().max() > 0.1  # it went somewhere


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("maximize", [False, True])
def test_sgd_follows_the_coupled_rule(shape, mode, maximize):
    """g ← ±grad, g ← g + γ Δ(W), g ← g + wd W, b ← μ b + g, W ← W − η b."""
    rate, mu, decay, gamma = 0.02, 0.8, 0.01, 0.2
    weight = parameter(*shape)
    expected, buffer = weight.detach().clone(), torch.zeros(shape).double()
    for gradient in gradients(shape, 20):
        gradient = -gradient if maximize else gradient
        buffer = mu * buffer + gradient + gamma * correction(expected, 0.7, mode) + decay * expected
        expected = expected - rate * buffer
    optimizer = BortSGD(
        [weight], lr=rate, momentum=mu, weight_decay=decay, gamma=gamma, amplitude=0.7, mode=mode, maximize=maximize
    )
    torch.testing.assert_close(follow(optimizer, weight, 20), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adamw_follows_the_decoupled_rule(shape, mode, amsgrad):
    """W ← (1 − η wd) W, W ← W − η γ Δ(W), then Adam's step from the raw gradient."""
    rate, decay, gamma, (beta1, beta2) = 0.01, 0.05, 0.6, (0.9, 0.99)
    weight = parameter(*shape)
    expected, mean, square, most = weight.detach().clone(), *(torch.zeros(shape).double() for _ in range(3))
    for step, gradient in enumerate(gradients(shape, 20), start=1):
        expected = expected * (1 - rate * decay)
        expected = expected - rate * gamma * correction(expected, 0.7, mode)
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        most = torch.maximum(most, square)
        spread = ((most if amsgrad else square) / (1 - beta2**step)).sqrt()
        expected = expected - rate * mean / (1 - beta1**step) / (spread + 1e-8)
    optimizer = BortAdamW(
        [weight], lr=rate, betas=(beta1, beta2), weight_decay=decay, gamma=gamma, amplitude=0.7, mode=mode,
        amsgrad=amsgrad,
    )  # fmt: skip
    torch.testing.assert_close(follow(optimizer, weight, 20), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("corrected", [False, True])
def test_lamb_is_corrected_outside_its_trust_ratio(shape, corrected):
    """W ← (1 − η wd) W, W ← W − η γ Δ(W), then W ← W − η ‖W‖ / ‖u‖ · u with Adam's u."""
    rate, decay, gamma, (beta1, beta2) = 0.01, 0.05, 0.6, (0.9, 0.99)
    weight = parameter(*shape)
    expected, mean, square = weight.detach().clone(), *(torch.zeros(shape).double() for _ in range(2))
    for step, gradient in enumerate(gradients(shape, 20), start=1):
        expected = expected * (1 - rate * decay)
        expected = expected - rate * gamma * correction(expected, 0.7, "l2-full")
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        update = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + 1e-6)
        expected = expected - rate * update * expected.norm() / update.norm()
    optimizer = BortLamb(
        [weight], lr=rate, betas=(beta1, beta2), weight_decay=decay, gamma=gamma, amplitude=0.7, max_grad_norm=None,
        corrected_weight_decay=corrected,
    )  # fmt: skip
    torch.testing.assert_close(follow(optimizer, weight, 20), expected, rtol=1e-10, atol=1e-11)


def test_lambs_corrected_decay_is_part_of_the_rule():
    rate, largest, decay, gamma = 0.005, 0.02, 0.5, 0.6
    weight = parameter(5, 12)
    optimizer = BortLamb([weight], lr=largest, weight_decay=decay, gamma=gamma, corrected_weight_decay=True)
    optimizer.param_groups[0]["lr"] = rate
    decayed = weight.detach() * (1 - rate**2 / largest * decay)
    expected = decayed - rate * gamma * correction(decayed, 1.0, "l2-full")
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


def test_lamb_keeps_its_trust_ratio_on_constrained_weights_without_decay_and_gives_it_to_no_bias():
    optimizer = BortLamb(bort_param_groups(nn.Linear(4, 3), gamma=0.1))
    assert [group["always_adapt"] for group in optimizer.param_groups] == [True, False]


@pytest.mark.parametrize("amplitude", [0.7, "ada"])
@pytest.mark.parametrize("mode", ["l2-full", "l2-row"])
def test_the_adaptive_amplitude_follows_each_weight(amplitude, mode):
    weights = [parameter(5, 12), parameter(4, 6, seed=1)]
    expected = [weight.detach() - 0.02 * 0.3 * correction(weight.detach(), amplitude, mode) for weight in weights]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    BortSGD(weights, lr=0.02, gamma=0.3, amplitude=amplitude, mode=mode).step()
    for weight, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted)


# ---- where it leads ------------------------------------------------------------------------------------------------


def settle(optimizer_class, weight, steps=4000, **settings):
    """Only correction and decay: zero gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = optimizer_class([weight], **settings)
    weight.grad = torch.zeros_like(weight)
    for _ in range(steps):
        weight.grad.zero_()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize(("optimizer", "shape"), [(BortSGD, (4, 8)), (BortSGD, (8, 4)), (BortAdamW, (8, 4))], ids=str)
@pytest.mark.parametrize(("decay", "square"), [(0.0, 1.0), (0.02, 0.8), (0.05, 0.5), (0.2, 0.0)])
def test_decay_moves_the_target(optimizer, decay, square, shape):
    """σ² = max(0, a − wd / γ) with γ = 0.1 and a = 1; for the decoupled rule to first order in step size × decay."""
    weight = nn.Parameter(torch.linalg.qr(drawn(8, 4))[0] * torch.tensor([0.6, 0.8, 1.0, 1.1]))
    weight = nn.Parameter(weight.detach() if shape == (8, 4) else weight.detach().T.contiguous())
    rate, steps = (0.3, 400) if optimizer is BortSGD else (0.03, 2800)
    weight = settle(optimizer, weight, steps, lr=rate, gamma=0.1, weight_decay=decay)
    squares = torch.linalg.svdvals(weight).square()
    torch.testing.assert_close(squares, torch.full_like(squares, square), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("ratio", "stays"), [(1.85, True), (1.95, False)])
def test_heavy_ball_momentum_holds_the_constraint_up_to_one_plus_mu(ratio, stays):
    weight = nn.Parameter(torch.linalg.qr(drawn(8, 4))[0].T * 1.0001)
    weight = settle(BortSGD, weight, 400, lr=1.0, momentum=0.9, gamma=ratio)
    off = (torch.linalg.svdvals(weight) - 1).abs().max()
    assert (off < 1e-4) == stays


@pytest.mark.parametrize(("ratio", "stays"), [(0.66, True), (0.70, False)])
def test_nesterov_momentum_holds_it_up_to_one_plus_mu_over_one_plus_two_mu(ratio, stays):
    weight = nn.Parameter(torch.linalg.qr(drawn(8, 4))[0].T * 1.0001)
    weight = settle(BortSGD, weight, 1000, lr=1.0, momentum=0.9, nesterov=True, gamma=ratio)
    off = (torch.linalg.svdvals(weight) - 1).abs().max()
    assert (off < 1e-4) == stays


@pytest.mark.parametrize("optimizer", [BortSGD, BortAdamW])
@pytest.mark.parametrize(("above", "stays"), [(-0.02, True), (0.02, False)])
def test_beyond_a_plus_two_over_c_weights_leave_the_finite_numbers(optimizer, above, stays):
    strength = 0.5
    square = 1 + 2 / strength + above
    weight = nn.Parameter(torch.linalg.qr(drawn(8, 4))[0].T * 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = optimizer([weight], lr=1.0, gamma=strength)
    with torch.no_grad():
        weight.mul_(2 * math.sqrt(square))
    for _ in range(200):
        weight.grad = torch.zeros_like(weight)
        made.step()
    assert bool(weight.isfinite().all()) == stays


def test_l1_rows_of_a_tall_weight_turn_to_the_side_that_has_a_fixed_point():
    weight = settle(BortSGD, parameter(32, 8), 1500, lr=0.001, gamma=1.0, mode="l1-fullrow")
    squares = torch.linalg.svdvals(weight).square()
    assert (squares - 1).abs().max() < 0.05
    assert weight.norm(dim=1).min() > 0.1


def test_l1_rows_of_a_wide_weight_become_orthonormal_up_to_a_jitter():
    strength = 0.001
    weight = settle(BortSGD, parameter(8, 32), 1500, lr=strength, gamma=1.0, mode="l1-fullrow")
    gram = weight @ weight.T - torch.eye(8)
    assert 0 < gram.abs().max() <= 4 * strength


@pytest.mark.parametrize(
    ("mode", "shape", "holds"),
    [
        ("l2-full", (8, 24), True),
        ("l2-row", (8, 24), True),
        ("l1-fullrow", (8, 24), False),
        ("l1-row", (8, 24), False),
        ("l2-full", (24, 8), False),
        ("l2-col", (24, 8), False),
        ("l1-fullrow", (24, 8), False),
    ],
)
def test_the_adaptive_amplitude_holds_or_collapses(mode, shape, holds):
    weight = parameter(*shape)
    start = weight.detach().square().sum()
    settings = {"lr": 0.01, "gamma": 1.0, "amplitude": "ada", "mode": mode, "allow_collapse": True}
    early = settle(BortSGD, weight, 500, **settings).clone().square().sum()
    late = settle(BortSGD, weight, 500, **settings).square().sum()
    if holds:
        assert late > 0.999 * early > 0.3 * start
    else:
        assert late < 0.98 * early < start


# ---- as torch's --------------------------------------------------------------------------------------------------


def model_of_two(dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).to(dtype)


def train(model, optimizer, steps=5, start=0):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        inputs = drawn(8, 6, seed=50 + step).to(next(model.parameters()).dtype)
        model(inputs).square().sum().backward()
        optimizer.step()
    return model


def parameters_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


EXTRAS = {
    BortSGD: [{}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "fused": True}, {"foreach": True}],
    BortAdamW: [{}, {"amsgrad": True}, {"fused": True}, {"foreach": True}],
    BortLamb: [{}, {"trust_clip": True}, {"foreach": True}],
}
every_kind = pytest.mark.parametrize(
    ("kind", "extra"), [(kind, extra) for kind, extras in EXTRAS.items() for extra in extras]
)


@every_kind
def test_without_gamma_it_is_the_stock_optimizer_bit_for_bit(kind, extra):
    ours, theirs = model_of_two(), model_of_two()
    train(ours, kind(ours.parameters(), lr=0.01, **extra))
    train(theirs, STOCK[kind](theirs.parameters(), lr=0.01, **extra))
    assert torch.equal(parameters_of(ours), parameters_of(theirs))


@every_kind
def test_all_paths_of_the_stock_optimizer_take_the_same_correction(kind, extra):
    plain = {name: value for name, value in extra.items() if name not in ("fused", "foreach")}
    one, other = model_of_two(torch.float64), model_of_two(torch.float64)
    for model, settings in ((one, extra), (other, plain)):
        train(model, kind(bort_param_groups(model, gamma=0.3), lr=0.01, **settings))
    torch.testing.assert_close(parameters_of(one), parameters_of(other), rtol=1e-9, atol=1e-10)
    stock = model_of_two(torch.float64)
    train(stock, STOCK[kind](stock.parameters(), lr=0.01, **plain))
    assert (parameters_of(one) - parameters_of(stock)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_is_a_stock_optimizer(kind):
    assert issubclass(kind, STOCK[kind])
    assert kind([parameter(3, 4)]).param_groups[0]["gamma"] == 0


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_constrained_groups_have_no_decay_unless_it_is_asked_for(kind):
    groups = [{"params": [parameter(3, 4)], "gamma": 1.0}, {"params": [parameter(3)]}]
    default = STOCK[kind]([parameter(2, 2)]).defaults["weight_decay"]
    assert [group["weight_decay"] for group in kind(groups).param_groups] == [0.0, default]
    assert [group["weight_decay"] for group in kind(groups, weight_decay=0.1).param_groups] == [0.1, 0.1]
    own = [{"params": [parameter(3, 4)], "gamma": 1.0, "weight_decay": 0.2}]
    assert kind(own, weight_decay=0.1).param_groups[0]["weight_decay"] == 0.2


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_group_added_late_is_unconstrained_unless_it_says_so(kind):
    optimizer = kind([parameter(3, 4)], gamma=0.1)
    optimizer.add_param_group({"params": [parameter(4, 3)]})
    optimizer.add_param_group({"params": [parameter(4, 3)], "gamma": 0.2})
    assert [group["gamma"] for group in optimizer.param_groups] == [0.1, 0.0, 0.2]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_group_that_is_refused_is_not_added(kind):
    optimizer = kind([parameter(3, 4)], gamma=0.1)
    with pytest.raises(ValueError, match="group 1: gamma"):
        optimizer.add_param_group({"params": [parameter(4, 3)], "gamma": -1.0})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_hooks_run_once_a_step_whether_or_not_a_stock_optimizer_exists(kind):
    model = model_of_two()
    optimizer = kind(model.parameters(), gamma=0.0)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, 1)
    STOCK[kind]([parameter(2, 2)])  # from now on torch's own class runs hooks too
    train(model, optimizer, 1)
    assert calls == ["before", "after"] * 2


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_closure_is_evaluated_once_and_before_the_correction(kind):
    ours, theirs = model_of_two(torch.float64), model_of_two(torch.float64)
    one, other = (kind(bort_param_groups(model, gamma=0.3), lr=0.01) for model in (ours, theirs))
    calls = []

    def closure():
        one.zero_grad()
        loss = ours(drawn(8, 6, seed=50)).square().sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    assert one.step(closure).item() == calls[0] and len(calls) == 1
    train(theirs, other, 1)
    assert torch.equal(parameters_of(ours), parameters_of(theirs))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_schedule_scales_the_correction(kind):
    weight = parameter(4, 7)
    optimizer = kind([weight], lr=0.1, gamma=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for rate in (0.1, 0.05, 0.025):
        expected = weight.detach() - rate * 0.5 * correction(weight.detach(), 1.0, "l2-full")
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        schedule.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_a_step_size_on_the_device_is_not_asked_for_its_value():
    weight = parameter(4, 7)
    expected = weight.detach() - 0.1 * 0.5 * correction(weight.detach(), 1.0, "l2-full")
    weight.grad = torch.zeros_like(weight)
    BortAdamW([weight], lr=torch.tensor(0.1, dtype=torch.float64), gamma=0.5, fused=True).step()
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_parameter_without_gradient_is_left_alone(kind):
    weights = [parameter(3, 4), parameter(3, 4, seed=1)]
    before = weights[0].detach().clone()
    weights[1].grad = torch.zeros_like(weights[1])
    kind(weights, lr=0.1, gamma=0.5).step()
    assert torch.equal(weights[0].detach(), before)
    assert not torch.equal(weights[1].detach(), drawn(3, 4, seed=1))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_blocks_are_corrected_one_by_one(kind):
    whole, parts = parameter(12, 5), [nn.Parameter(part.clone()) for part in drawn(12, 5).chunk(3)]
    for weight in (whole, *parts):
        weight.grad = torch.zeros_like(weight)
    kind([{"params": [whole], "blocks": 3}], lr=0.1, gamma=0.5).step()
    kind(parts, lr=0.1, gamma=0.5).step()
    torch.testing.assert_close(whole.detach(), torch.cat(parts).detach())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_states_go_both_ways_between_bort_and_stock(kind):
    def made(model, cls, **settings):
        groups = bort_param_groups(model, gamma=0.3, weight_decay=0.01)
        if cls is not kind:
            groups = [{name: group[name] for name in ("params", "weight_decay")} for group in groups]
        return cls(groups, lr=0.01, **settings)

    extra = {"momentum": 0.9} if kind is BortSGD else {}
    model = model_of_two(torch.float64)
    bort = made(model, kind, **extra)
    train(model, bort)
    # to stock, and on with it
    copied = copy.deepcopy(model)
    stock = made(copied, STOCK[kind], **extra)
    stock.load_state_dict(copy.deepcopy(bort.state_dict()))
    reference = copy.deepcopy(model)
    unconstrained = made(reference, kind, **extra)
    unconstrained.load_state_dict(copy.deepcopy(bort.state_dict()))
    for group in unconstrained.param_groups:
        group["gamma"] = 0.0
    assert torch.equal(
        parameters_of(train(copied, stock, 3, start=5)), parameters_of(train(reference, unconstrained, 3, start=5))
    )
    # and back
    back = made(copied, kind, **extra)
    state = stock.state_dict()
    for group in state["param_groups"]:
        for name in ("gamma", "amplitude", "mode", "blocks"):
            group.pop(name, None)
    back.load_state_dict(state)
    assert [group["gamma"] for group in back.param_groups] == [0.3, 0.0]
    assert back.param_groups[0]["blocks"] == [1, 1]
    train(copied, back, 1, start=8)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_continued_run_is_the_run_that_was_never_stopped(kind):
    whole = model_of_two()
    train(whole, kind(bort_param_groups(whole, gamma=0.3, split_qkv=True), lr=0.01), 6)
    model = model_of_two()
    first = kind(bort_param_groups(model, gamma=0.3), lr=0.01)
    train(model, first, 3)
    second = kind(bort_param_groups(model, gamma=0.7, amplitude=2.0), lr=0.5)  # the state knows better
    second.load_state_dict(first.state_dict())
    train(model, second, 3, start=3)
    assert torch.equal(parameters_of(model), parameters_of(whole))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_authors_spelling_is_understood(kind):
    optimizer = kind([parameter(3, 4)], gamma=0.1, amptitude=0.5)
    assert optimizer.param_groups[0]["amplitude"] == 0.5
    assert "amptitude" not in optimizer.param_groups[0]
    optimizer.add_param_group({"params": [parameter(3, 4)], "gamma": 0.1, "amptitude": 0.25})
    state = optimizer.state_dict()
    state["param_groups"][0]["amptitude"] = 0.75
    optimizer.load_state_dict(state)
    assert [group["amplitude"] for group in optimizer.param_groups] == [0.75, 0.25]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_copies_and_pickles_go_on_with_the_constraint(kind):
    weight = parameter(4, 7)
    optimizer = kind([weight], lr=0.1, gamma=0.5)
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (copied,) = again.param_groups[0]["params"]
        expected = copied.detach() - 0.05 * correction(copied.detach(), 1.0, "l2-full")
        copied.grad = torch.zeros_like(copied)
        again.step()
        torch.testing.assert_close(copied.detach(), expected)


@pytest.mark.parametrize(("kind", "extra"), [(BortSGD, {}), (BortSGD, {"fused": True}), (BortAdamW, {"fused": True})])
def test_the_scaler_unscales_before_the_correction_and_skips_steps_with_an_infinity(kind, extra):
    ours, theirs = model_of_two(), model_of_two()
    one, other = (kind(bort_param_groups(model, gamma=0.3), lr=0.01, **extra) for model in (ours, theirs))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    inputs = drawn(8, 6, seed=50).float()
    scaler.scale(ours(inputs).square().sum()).backward()
    scaler.step(one)
    scaler.update()
    train(theirs, other, 1)
    torch.testing.assert_close(parameters_of(ours), parameters_of(theirs), rtol=1e-5, atol=1e-6)
    before = parameters_of(ours).clone()
    one.zero_grad()
    scaler.scale(ours(inputs).square().sum()).backward()
    ours[0].weight.grad[0, 0] = math.inf
    scaler.step(one)
    scaler.update()
    assert torch.equal(parameters_of(ours), before)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_autocast_around_the_step_changes_nothing(kind):
    ours, theirs = model_of_two(), model_of_two()
    one, other = (kind(bort_param_groups(model, gamma=0.3), lr=0.01) for model in (ours, theirs))
    for model, optimizer, enabled in ((ours, one, True), (theirs, other, False)):
        model(drawn(8, 6, seed=50).float()).square().sum().backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            optimizer.step()
    assert torch.equal(parameters_of(ours), parameters_of(theirs))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_bf16_weights_are_corrected_in_float32_and_warned_of(kind):
    weight = nn.Parameter((1.02 * torch.linalg.qr(drawn(12, 6))[0].T).bfloat16())
    exact = weight.detach().double()
    with pytest.warns(UserWarning, match="parameter 0: small corrections are lost in 16-bit weights"):
        optimizer = kind([weight], lr=1.0, gamma=0.5)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    wanted = exact - 0.5 * correction(exact, 1.0, "l2-full")
    torch.testing.assert_close(weight.detach().double(), wanted, rtol=2**-7, atol=1e-3)


def test_a_step_waits_for_no_device():
    """On meta tensors every question for a value fails."""
    for kind in OPTIMIZERS:
        weight = nn.Parameter(drawn(4, 7).float())
        optimizer = kind([weight], gamma=0.5, amplitude="ada", **({"momentum": 0.9} if kind is BortSGD else {}))
        abstract = nn.Parameter(torch.empty(4, 7, device="meta"))
        abstract.grad = torch.empty(4, 7, device="meta")
        optimizer.param_groups[0]["params"] = [abstract]
        optimizer.step()
