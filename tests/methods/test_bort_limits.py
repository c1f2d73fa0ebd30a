"""What Bort's optimizers refuse and warn of, before a step is taken."""

import math
import warnings

import pytest
import torch
from torch import nn

from methods.training._bort import BortAdamW, BortSGD, bort_param_groups
from methods.training._bort_checks import largest_square, predicted_square
from methods.training._bort_lamb import BortLamb

OPTIMIZERS = [BortSGD, BortAdamW, BortLamb]
every_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)


def parameter(*shape, seed=0, size=0.3):
    return nn.Parameter(size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def with_singular_values(*values):
    """A wide weight that has them."""
    basis = torch.linalg.qr(torch.randn(12, len(values), generator=torch.Generator().manual_seed(0)))[0]
    return nn.Parameter((basis * torch.tensor(values)).T.contiguous())


def quiet(kind, *arguments, **settings):
    """Make an optimizer; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return kind(*arguments, **settings)


# ---- numbers -------------------------------------------------------------------------------------------------------

BAD = [
    ("gamma", -0.1, "gamma should be a finite number ≥ 0"),
    ("gamma", math.nan, "gamma should be a finite number ≥ 0"),
    ("gamma", math.inf, "gamma should be a finite number ≥ 0"),
    ("gamma", "0.1", "gamma should be a finite number ≥ 0"),
    ("gamma", True, "gamma should be a finite number ≥ 0"),
    ("amplitude", 0.0, "amplitude should be a finite number > 0 or 'ada'"),
    ("amplitude", -1, "amplitude should be a finite number > 0 or 'ada'"),
    ("amplitude", math.nan, "amplitude should be a finite number > 0 or 'ada'"),
    ("amplitude", math.inf, "amplitude should be a finite number > 0 or 'ada'"),
    ("amplitude", "adaptive", "amplitude should be a finite number > 0 or 'ada'"),
    ("amplitude", True, "amplitude should be a finite number > 0 or 'ada'"),
    ("mode", "default", "mode should be one of l2-full, l2-row, l2-col, l1-fullrow"),
    ("mode", "l1-full", "mode should be one of l2-full"),
    ("lr", math.nan, "lr should be finite and ≥ 0"),
    ("lr", math.inf, "lr should be finite and ≥ 0"),
    ("weight_decay", math.nan, "weight_decay should be finite and ≥ 0"),
    ("weight_decay", math.inf, "weight_decay should be finite and ≥ 0"),
]
every_bad_number = pytest.mark.parametrize(("name", "value", "message"), BAD)


@every_optimizer
@every_bad_number
def test_a_bad_number_is_refused_by_the_constructor_and_in_a_group(kind, name, value, message):
    settings = {"gamma": 0.1, name: value}
    # torch's AdamW finds a step size or decay that is no number itself, and says so in its own words
    own = rf"(group 0: {message}|Invalid (learning rate|weight_decay value): {value})"
    with pytest.raises(ValueError, match=own):
        kind([parameter(3, 4)], **settings)
    with pytest.raises(ValueError, match=f"group 1: {message}"):
        kind([{"params": [parameter(3)]}, {"params": [parameter(3, 4)], **settings}])


@every_optimizer
@every_bad_number
def test_a_bad_number_is_refused_when_loaded_and_when_set_before_a_step(kind, name, value, message):
    weight = parameter(3, 4)
    optimizer = kind([weight], gamma=0.1)
    state = optimizer.state_dict()
    state["param_groups"][0][name] = value
    with pytest.raises(ValueError, match=f"group 0: {message}"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["gamma"] == 0.1
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=f"group 0: {message}"):
        optimizer.step()
    assert torch.equal(weight, before) and torch.equal(weight.grad, torch.ones_like(weight))


@every_optimizer
def test_a_negative_step_size_and_decay_are_refused(kind):
    for settings in ({"lr": -0.1}, {"weight_decay": -0.1}):
        with pytest.raises(ValueError):  # noqa: PT011 - the stock optimizers' own words
            kind([parameter(3, 4)], **settings)


@every_optimizer
def test_a_graph_through_the_step_is_refused(kind):
    with pytest.raises(ValueError, match="without a graph"):
        kind([parameter(3, 4)], differentiable=True)


@every_optimizer
def test_one_tensor_or_nothing_is_refused_as_by_torch(kind):
    with pytest.raises(TypeError, match="iterable of Tensors"):
        kind(parameter(3, 4))
    with pytest.raises(ValueError, match="empty parameter list"):
        kind([])


# ---- tensors -------------------------------------------------------------------------------------------------------


@every_optimizer
def test_parameters_with_fewer_than_two_axes_are_left_out_with_one_warning_that_names_them(kind):
    weight, bias, scale = parameter(3, 4), parameter(3), nn.Parameter(torch.tensor(2.0))
    with pytest.warns(UserWarning, match="bias, scale: fewer than two axes, left unconstrained") as told:
        optimizer = kind([("weight", weight), ("bias", bias), ("scale", scale)], lr=0.1, gamma=0.1)
    assert len(told) == 1
    for one in (weight, bias, scale):
        one.grad = torch.zeros_like(one)
    before = [one.detach().clone() for one in (weight, bias, scale)]
    quiet(lambda: optimizer.step())
    assert [torch.equal(a, b) for a, b in zip(before, (weight, bias, scale), strict=True)] == [False, True, True]


@every_optimizer
def test_strictly_they_are_refused(kind):
    with pytest.raises(ValueError, match="bias: a constraint needs two axes"):
        kind([("weight", parameter(3, 4)), ("bias", parameter(3))], gamma=0.1, strict=True)


@every_optimizer
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)])
def test_empty_parameters_are_left_alone(kind, shape):
    weight, empty = parameter(3, 4), nn.Parameter(torch.empty(*shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if len(shape) == 1 else "error")
        optimizer = kind([weight, empty], lr=0.1, gamma=0.1)
    for one in (weight, empty):
        one.grad = torch.zeros_like(one)
    before = weight.detach().clone()
    optimizer.step()
    assert not torch.equal(weight, before)


@every_optimizer
def test_parameters_without_values_are_refused(kind):
    for nothing in (nn.Parameter(torch.empty(3, 4, device="meta")), nn.UninitializedParameter()):
        with pytest.raises(ValueError, match="initialise them first"):
            kind([nothing], gamma=0.1)


@every_optimizer
def test_complex_and_whole_numbers_are_refused(kind):
    whole = nn.Parameter(torch.ones(3, 4, dtype=torch.int64), requires_grad=False)
    for other in (nn.Parameter(torch.ones(3, 4, dtype=torch.complex64)), whole):
        with pytest.raises(TypeError, match="only real floating point weights"):
            kind([other], gamma=0.1)


@every_optimizer
def test_flattened_and_sharded_parameters_are_refused(kind):
    flat, sharded = parameter(12), parameter(3, 4)
    flat._is_flat_param = True
    sharded.device_mesh = object()
    for other in (flat, sharded):
        with pytest.raises(ValueError, match="use the original parameters"):
            kind([other], gamma=0.1)


@every_optimizer
def test_unconstrained_groups_may_hold_what_constrained_ones_may_not(kind):
    groups = [
        {"params": [parameter(3, 4)], "gamma": 0.1},
        {"params": [parameter(3), nn.Parameter(torch.empty(0, 3))], "mode": "l1-fullrow", "amplitude": "ada"},
    ]
    quiet(kind, groups)


@every_optimizer
def test_a_sparse_gradient_is_refused_before_anything_is_written(kind):
    first, embedding = parameter(3, 4), nn.Embedding(5, 4, sparse=True)
    optimizer = kind([first, embedding.weight], lr=0.1, gamma=0.1)
    first.grad = torch.zeros_like(first)
    embedding(torch.tensor([1, 2])).sum().backward()
    before = first.detach().clone()
    with pytest.raises(RuntimeError, match=r"parameter 1 has a sparse gradient.*unconstrained group"):
        optimizer.step()
    assert torch.equal(first, before) and not first.grad.any()


@every_optimizer
@pytest.mark.parametrize("blocks", [5, 0, [1, 1], [4, 5]])
def test_blocks_that_do_not_fit_are_refused(kind, blocks):
    with pytest.raises(ValueError, match=r"blocks"):
        kind([{"params": [parameter(12, 4)], "blocks": blocks}], gamma=0.1)


@every_optimizer
@pytest.mark.parametrize(("mode", "shape"), [("l1-fullrow", (6, 3)), ("l1-fullcol", (3, 6))])
def test_an_l1_mode_of_the_wrong_side_is_turned_or_strictly_refused(kind, mode, shape):
    quiet(kind, [parameter(*shape)], gamma=0.1, mode=mode)
    with pytest.raises(ValueError, match=f"{mode} has no fixed point for {shape[0]} × {shape[1]}"):
        kind([parameter(*shape)], gamma=0.1, mode=mode, strict=True)


@every_optimizer
@pytest.mark.parametrize(
    ("mode", "shape", "allowed"),
    [
        ("l2-full", (3, 6), True),
        ("l2-full", (4, 4), True),
        ("l2-row", (3, 6), True),
        ("l2-full", (6, 3), False),
        ("l2-row", (6, 3), False),
        ("l2-col", (3, 6), False),
        ("l1-fullrow", (3, 6), False),
        ("l1-fullcol", (6, 3), False),
        ("l1-row", (3, 6), False),
        ("l1-col", (3, 6), False),
    ],
)
def test_the_adaptive_amplitude_is_refused_where_weights_would_collapse(kind, mode, shape, allowed):
    settings = {"gamma": 0.01, "amplitude": "ada", "mode": mode}
    if allowed:
        quiet(kind, [parameter(*shape)], **settings)
    else:
        with pytest.raises(ValueError, match=r"parameter 0: amplitude 'ada' drives a .* allow_collapse=True"):
            kind([parameter(*shape)], **settings)
    quiet(kind, [parameter(*shape)], **settings, allow_collapse=True)


@every_optimizer
def test_what_is_set_later_is_checked_before_the_next_step(kind):
    weight = parameter(6, 3)
    optimizer = kind([weight], gamma=0.0)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.param_groups[0].update(gamma=0.1, amplitude="ada")
    with pytest.raises(ValueError, match="amplitude 'ada' drives"):
        optimizer.step()


# ---- numbers that are not finite -----------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["weight", "gradient"])
def test_on_request_infinities_stop_a_step_before_it_writes(kind, bad, where):
    weights = [parameter(3, 4), parameter(4, 3)]
    optimizer = kind([("one", weights[0]), ("two", weights[1])], lr=0.1, gamma=0.1, error_if_nonfinite=True)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    with torch.no_grad():
        (weights[1] if where == "weight" else weights[1].grad)[0, 0] = bad
    before = weights[0].detach().clone()
    name = "two" if where == "weight" else "gradient of two"
    with pytest.raises(RuntimeError, match=f"not finite: group 0, {name}; nothing was written"):
        optimizer.step()
    assert torch.equal(weights[0], before)


@pytest.mark.parametrize("kind", [BortSGD, BortAdamW])
def test_otherwise_a_gradient_that_is_not_finite_does_what_it_does_in_the_stock_optimizer(kind):
    one, other = parameter(3, 4), parameter(3, 4)
    for weight, optimizer in (
        (one, kind([one], lr=0.1, gamma=0.1)),
        (other, kind.stock([other], lr=0.1, weight_decay=0.0)),
    ):
        weight.grad = torch.zeros_like(weight)
        weight.grad[1, 2] = math.nan
        optimizer.step()
    assert torch.equal(one.isnan(), other.isnan()) and one.isnan().sum() == 1


# ---- how strong ----------------------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize(
    ("mode", "decay", "told"),
    [
        ("l2-full", 0.0, False),
        ("l2-full", 0.09, False),
        ("l2-full", 0.1, True),
        ("l2-row", 0.2, True),
        ("l1-row", 0.15, False),
        ("l1-row", 0.2, True),
    ],
)
def test_a_decay_that_wins_is_warned_of_with_the_square_it_leads_to(kind, mode, decay, told):
    settings = {"gamma": 0.2, "amplitude": 0.5, "mode": mode, "weight_decay": decay}
    if told:
        with pytest.warns(UserWarning, match=r"settle at sigma² = 0"):
            kind([parameter(3, 6)], **settings)
    else:
        quiet(kind, [parameter(3, 6)], **settings)


def test_predicted_squares():
    assert predicted_square(1.0, 0.02, 0.1, "l2-full") == pytest.approx(0.8)
    assert predicted_square(1.0, 0.2, 0.1, "l2-full") == 0.0
    assert predicted_square(0.7, 0.0, 0.1, "l1-row") == 0.7
    assert predicted_square(0.7, 0.05, 0.1, "l1-row") == 0.7
    assert predicted_square("ada", 0.05, 0.1, "l2-full") == 0.0


@every_optimizer
@pytest.mark.parametrize(
    ("square", "outcome"),
    # step size × γ = 0.5: signs turn from σ² = a + 2 on, numbers leave from a + 4 on
    [(2.9, "quiet"), (3.1, "warns"), (4.9, "warns"), (5.1, "raises")],
)
def test_a_weight_too_large_for_its_step_is_told_with_the_largest_safe_gamma(kind, square, outcome):
    settings = {"lr": 0.1, "gamma": 5.0}
    weight = with_singular_values(0.2, square**0.5, 0.5)
    safe = f"{1 / (0.1 * (square - 1)):.3g}"
    if outcome == "quiet":
        quiet(kind, [weight], **settings)
    elif outcome == "warns":
        with pytest.warns(UserWarning, match=f"turns the sign of parameter 0.*largest safe gamma .* is {safe}"):
            kind([weight], **settings)
    else:
        with pytest.raises(ValueError, match=f"diverge.*largest safe gamma at step size 0.1 is {safe}"):
            kind([weight], **settings)
    quiet(kind, [weight], lr=0.1, gamma=0.99 / (0.1 * (square - 1)))


@every_optimizer
@pytest.mark.parametrize(("gamma", "outcome"), [(0.9, "quiet"), (1.1, "warns"), (2.1, "raises")])
def test_a_step_too_large_for_the_target_is_told_though_the_weights_are_small(kind, gamma, outcome):
    settings = {"lr": 0.5, "gamma": gamma, "amplitude": 2.0}
    if outcome == "quiet":
        quiet(kind, [parameter(3, 6)], **settings)
    elif outcome == "warns":
        with pytest.warns(UserWarning, match="not stable; the largest safe gamma"):
            kind([parameter(3, 6)], **settings)
    else:
        with pytest.raises(ValueError, match="diverge: a = 2; the largest safe gamma"):
            kind([parameter(3, 6)], **settings)


def test_nesterov_momentum_makes_the_first_step_longer_and_the_limit_lower():
    weight = with_singular_values(1.5**0.5, 1.0)
    quiet(BortSGD, [weight], lr=1.0, momentum=0.9, gamma=0.7)
    with pytest.warns(UserWarning, match=r"beyond 0.679, not stable"):
        BortSGD([weight], lr=1.0, momentum=0.9, nesterov=True, gamma=0.7)
    longer = with_singular_values(3.0**0.5, 1.0)
    quiet(BortSGD, [longer], lr=1.0, momentum=0.9, gamma=0.4)
    with pytest.warns(UserWarning, match="turns the sign"):
        BortSGD([longer], lr=1.0, momentum=0.9, nesterov=True, gamma=0.4)


@every_optimizer
def test_a_norm_mode_looks_at_norms_only(kind):
    weight = nn.Parameter(torch.ones(30, 4) / 2)  # rows of norm 1, σ² = 30
    quiet(kind, [weight], lr=0.1, gamma=1.0, mode="l2-row")
    with pytest.raises(ValueError, match="diverge"):
        kind([weight], lr=0.1, gamma=1.0, mode="l2-full")


@every_optimizer
@pytest.mark.parametrize(
    ("mode", "gamma", "told"),
    [("l1-fullrow", 0.3, False), ("l1-fullrow", 0.5, True), ("l1-row", 0.9, False), ("l1-row", 1.1, True)],
)
def test_an_l1_step_that_moves_a_weight_by_a_tenth_is_warned_of(kind, mode, gamma, told):
    """The limits are c · 2.4 √n = 0.1 with n = 4, and c = 0.1 for the modes without a Gram matrix."""
    settings = {"lr": 0.05 if mode == "l1-fullrow" else 0.1, "gamma": gamma, "mode": mode}
    if told:
        with pytest.warns(UserWarning, match=f"one step of {mode} moves parameter 0 by about"):
            kind([parameter(4, 9)], **settings)
    else:
        quiet(kind, [parameter(4, 9)], **settings)


@pytest.mark.parametrize("shape", [(3, 40, 70), (2, 70, 40), (4, 1, 9), (1, 9, 1)])
def test_the_estimate_of_the_largest_singular_value_is_close_and_not_above(shape):
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = torch.linalg.svdvals(matrices)[:, 0].square()
    estimate = largest_square(matrices, "l2-full")
    assert (estimate <= exact * (1 + 1e-12)).all() and (estimate >= 0.9 * exact).all()


def test_zero_weights_and_a_step_size_of_zero_pass_the_pre_flight():
    quiet(BortSGD, [nn.Parameter(torch.zeros(3, 4))], lr=0.1, gamma=0.1)
    quiet(BortSGD, [with_singular_values(90.0, 1.0)], lr=0.0, gamma=5.0)


def test_groups_of_a_whole_network_pass_quietly_at_the_methods_defaults():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 10))
    quiet(BortSGD, bort_param_groups(model, gamma=0.1, weight_decay=5e-4), lr=0.1, momentum=0.9, nesterov=True)
    quiet(BortAdamW, bort_param_groups(model, gamma=1.0, weight_decay=0.05), lr=1e-3)
