"""Bort's corrections and penalties, its choice of weights, its reports, and the training methods made of them."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.contract import Recipe, SetupError, TrainingTask
from methods.training import _bort_training
from methods.training._bort import (
    BortSGD,
    bort_correction,
    bort_param_groups,
    bort_penalty,
    orthogonality_report,
)
from methods.training._bort_correction import MODES, add_correction_, add_corrections_, fitting, gram_of_rows
from methods.training._bort_selection import constrained_weights
from methods.training.adamw import AdamW
from methods.training.bort_adamw import BortAdamW as BortAdamWMethod
from methods.training.bort_lamb import BortLamb as BortLambMethod
from methods.training.bort_sgd import BortSGD as BortSGDMethod
from methods.training.sgd import SGD

SHAPES = [(5, 12), (7, 7), (12, 5)]  # wide, square, tall
METHODS = [BortSGDMethod(), BortAdamWMethod(step_size=0.01, gamma=10.0), BortLambMethod(step_size=0.02, gamma=5.0)]
TRACKED = ("l2-full", "l2-row")  # modes for which "ada" holds


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.6


def orthogonal(rows, columns, amplitude=1.0, seed=0):
    """(rows, columns) with all singular values √amplitude."""
    u, _, v = torch.linalg.svd(drawn(rows, columns, seed=seed), full_matrices=False)
    return math.sqrt(amplitude) * u @ v


def by_definition(weight, amplitude, mode):
    """The table of corrections as it stands, with both Gram matrices written out."""
    weight = weight.flatten(1)
    if amplitude == "ada":
        amplitude = weight.norm(dim=1).mean() ** 2
    rows, columns = weight @ weight.T, weight.T @ weight
    e_rows, e_columns = amplitude * torch.eye(len(rows)).double(), amplitude * torch.eye(len(columns)).double()
    return {
        "l2-full": lambda: (rows - e_rows) @ weight,
        "l2-row": lambda: rows.diag().diag() @ weight - amplitude * weight,
        "l2-col": lambda: weight @ columns.diag().diag() - amplitude * weight,
        "l1-fullrow": lambda: (rows - e_rows).sign() @ weight,
        "l1-fullcol": lambda: weight @ (columns - e_columns).sign(),
        "l1-row": lambda: (rows.diag() - amplitude).sign().diag() @ weight,
        "l1-col": lambda: weight @ (columns.diag() - amplitude).sign().diag(),
    }[mode]()


def penalty_by_definition(weight, amplitude, mode):
    """The penalties as sums over entries of the Gram matrix of their side; l2-full by rows, whatever the shape."""
    vectors = list(weight.T if mode.endswith("col") else weight)
    entries = [
        (one @ other) - (amplitude if i == j else 0.0)
        for (i, one), (j, other) in itertools.product(enumerate(vectors), repeat=2)
        if "full" in mode or i == j
    ]
    return sum(0.25 * entry**2 if mode.startswith("l2") else 0.5 * entry.abs() for entry in entries)


# ---- corrections and penalties -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("amplitude", [1.0, 0.37, "ada"])
def test_a_correction_is_its_row_of_the_table(shape, mode, amplitude):
    weight = drawn(*shape)
    torch.testing.assert_close(
        bort_correction(weight, amplitude, mode), by_definition(weight, amplitude, mode), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("shape", [*SHAPES, (1, 6), (6, 1), (4, 3, 2, 2)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("amplitude", [1.0, 0.37, "ada"])
def test_a_correction_is_the_gradient_of_its_penalty(shape, mode, amplitude):
    weight = drawn(*shape).requires_grad_()
    (gradient,) = torch.autograd.grad(bort_penalty(weight, amplitude, mode), weight)
    torch.testing.assert_close(bort_correction(weight.detach(), amplitude, mode), gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_a_penalty_is_its_sum_over_gram_entries(shape, mode):
    weight = drawn(*shape)
    assert bort_penalty(weight, 0.8, mode).item() == pytest.approx(penalty_by_definition(weight, 0.8, mode).item())


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_weights_are_a_fixed_point_of_the_default_mode(shape):
    assert bort_correction(orthogonal(*shape, amplitude=0.5), 0.5).abs().max() < 1e-14


@pytest.mark.parametrize("mode", ["l2-full", "l2-row", "l1-fullrow", "l1-row"])
def test_one_row_has_its_norm_controlled_alone(mode):
    weight = drawn(1, 9)
    square = (weight**2).sum()
    pull = square - 1 if mode.startswith("l2") else torch.sign(square - 1)
    torch.testing.assert_close(bort_correction(weight, 1.0, mode), pull * weight)


def test_bf16_weights_and_autocast_are_corrected_in_float32():
    weight = orthogonal(16, 40).float() * 1.001
    exact = bort_correction(weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bort_correction(weight), exact)
    short = weight.bfloat16()
    torch.testing.assert_close(bort_correction(short), bort_correction(short.float()).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (30, 4, 2, 2), (6, 10, 1, 1), (9, 5)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "grad_differs", "transposed"])
@pytest.mark.parametrize("mode", MODES)
def test_layouts_of_memory_make_no_difference(shape, layout, mode):
    weight, target = drawn(*shape), drawn(*shape, seed=1)
    expected = target + 0.3 * by_definition(weight, 1.0, mode).view(shape)
    if len(shape) == 4 and layout != "contiguous":
        weight = weight.contiguous(memory_format=torch.channels_last)
        if layout != "grad_differs":
            target = target.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":  # axis 0 is the fastest
        weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
    add_correction_(target, weight, blocks=1, amplitude=1.0, mode=mode, alpha=0.3, shrink=1.0)
    torch.testing.assert_close(target, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("amplitude", [0.7, "ada"])
def test_a_batch_of_weights_gets_what_each_gets_alone(mode, shape, amplitude):
    rows, columns = shape
    weights = [drawn(rows, columns), drawn(3 * rows, columns, seed=1), drawn(rows, columns, 1, 1, seed=2)]
    targets = [drawn(*weight.shape, seed=9) for weight in weights]
    blocks = [1, 3, 1]
    expected = []
    for target, weight, count in zip(targets, weights, blocks, strict=True):
        parts = [by_definition(0.9 * part, amplitude, mode) / 0.9 for part in weight.chunk(count)]
        expected.append(target + 0.2 * torch.cat(parts).view_as(weight))
    how = {"amplitude": amplitude, "mode": mode, "alpha": 0.2, "shrink": 0.9}
    alone = [target.clone() for target in targets]
    for target, weight, count in zip(alone, weights, blocks, strict=True):
        add_correction_(target, weight, blocks=count, **how)
    add_corrections_(targets, weights, blocks=blocks, **how)
    for one, other, wanted in zip(alone, targets, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(other, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(257, 300), (256, 260), (300, 257), (400, 30)])
def test_large_gram_matrices_made_by_strips_are_the_whole_ones(shape):
    weight = drawn(*shape)
    torch.testing.assert_close(bort_correction(weight), by_definition(weight, 1.0, "l2-full"), rtol=1e-11, atol=1e-9)
    gram = gram_of_rows(weight)
    torch.testing.assert_close(gram, weight @ weight.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", [mode for mode in MODES if "full" not in mode])
def test_diagonal_modes_form_no_gram_matrix(mode):
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    weight, target = drawn(6, 9), drawn(6, 9, seed=1)
    with Watch():
        add_correction_(target, weight, blocks=1, amplitude=1.0, mode=mode, alpha=0.3, shrink=1.0)
    assert seen and not [name for name in seen if "mm" in name or "matmul" in name]


def test_an_l1_mode_takes_the_side_that_has_a_fixed_point():
    assert fitting("l1-fullrow", 12, 5) == "l1-fullcol"
    assert fitting("l1-fullcol", 5, 12) == "l1-fullrow"
    assert fitting("l1-fullrow", 5, 5) == "l1-fullrow"
    assert fitting("l1-row", 12, 5) == "l1-row"


# ---- what orthogonal weights are good for --------------------------------------------------------------------------


@pytest.mark.parametrize("amplitude", [1.0, 0.3])
def test_a_tall_linear_layer_is_undone_by_its_transpose(amplitude):
    weight, x = orthogonal(20, 12, amplitude), drawn(12, 50, seed=1)
    torch.testing.assert_close(weight.T @ (weight @ x) / amplitude, x)


@pytest.mark.parametrize("amplitude", [1.0, 0.3])
def test_a_wide_linear_layer_is_projected_by_its_transpose(amplitude):
    weight, x = orthogonal(12, 20, amplitude), drawn(20, 50, seed=1)
    back = weight.T @ (weight @ x) / amplitude
    torch.testing.assert_close(weight @ back, weight @ x)  # the same features
    rows = torch.linalg.qr(weight.T)[0]
    torch.testing.assert_close(back, rows @ rows.T @ x)


def test_the_transpose_is_a_right_inverse_of_a_wide_relu_layer():
    weight, x = orthogonal(12, 20, 0.3), drawn(20, 50, seed=1)
    features = (weight @ x).relu()
    torch.testing.assert_close((weight @ (weight.T @ features / 0.3)).relu(), features)


@pytest.mark.parametrize(("rows", "columns", "mean_cosine"), [(12, 20, 0.53), (20, 12, 0.81)])
def test_back_projected_relu_features_resemble_the_input_as_much_as_they_are_long(rows, columns, mean_cosine):
    weight, x = orthogonal(rows, columns, 0.3), drawn(columns, 4000, seed=1)
    features = (weight @ x).relu()
    back = weight.T @ features / 0.3
    torch.testing.assert_close((back * x).sum(0), features.square().sum(0) / 0.3)
    cosine = F.cosine_similarity(back, x, dim=0)
    bound = features.norm(dim=0) / (math.sqrt(0.3) * x.norm(dim=0))
    assert (cosine >= bound - 1e-12).all()
    if rows < columns:
        torch.testing.assert_close(cosine, bound)
    assert cosine.mean().item() == pytest.approx(mean_cosine, abs=0.015)


def test_a_leaky_relu_network_is_undone_exactly_from_top_to_bottom():
    weights, x = [orthogonal(16, 12), orthogonal(24, 16, seed=1)], drawn(12, 30, seed=2)
    features = x
    for weight in weights:
        features = F.leaky_relu(weight @ features, 0.5)
    for weight in reversed(weights):
        features = weight.T @ torch.where(features > 0, features, features / 0.5)
    torch.testing.assert_close(features, x)


@pytest.mark.parametrize(("channels", "stride"), [(12, 2), (4, 1)])
def test_a_tall_convolution_is_undone_by_its_transpose_and_the_overlap_count(channels, stride):
    weight = orthogonal(channels, 4).view(channels, 1, 2, 2)
    x = drawn(3, 1, 8, 8, seed=1)
    back = F.conv_transpose2d(F.conv2d(x, weight, stride=stride), weight, stride=stride)
    ones = torch.ones_like(x)
    overlap = F.fold(F.unfold(ones, 2, stride=stride), (8, 8), 2, stride=stride)
    torch.testing.assert_close(back / overlap, x)


# ---- which weights -------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Fused query, key and value as timm has them."""

    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)


class Zoo(nn.Module):
    """One of everything."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.embed = nn.Embedding(10, 8)
        self.conv = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=4)
        self.norm = nn.BatchNorm2d(12)
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.attn = Attention()
        self.mha = nn.MultiheadAttention(8, 4)
        self.cross = nn.MultiheadAttention(8, 4, kdim=6, vdim=5)
        self.own = nn.Module()
        self.own.kernel = nn.Parameter(torch.randn(5, 4))
        self.head = nn.Linear(8, 10)


def chosen(model, **selection):
    return {weight.name: (weight.blocks, *weight.shape) for weight in constrained_weights(model, **selection)}


def test_kernels_and_matrices_are_chosen_and_nothing_else():
    assert chosen(Zoo()) == {
        "conv.weight": (1, 8, 27),
        "depthwise.weight": (8, 1, 9),
        "grouped.weight": (4, 3, 2),
        "up.weight": (1, 6, 16),
        "attn.qkv.weight": (1, 24, 8),
        "attn.proj.weight": (1, 8, 8),
        "mha.in_proj_weight": (1, 24, 8),
        "mha.out_proj.weight": (1, 8, 8),
        "cross.q_proj_weight": (1, 8, 8),
        "cross.k_proj_weight": (1, 8, 6),
        "cross.v_proj_weight": (1, 8, 5),
        "cross.out_proj.weight": (1, 8, 8),
        "head.weight": (1, 10, 8),
    }


def test_query_key_and_value_can_be_seen_apart():
    split, heads = chosen(Zoo(), split_qkv=True), chosen(Zoo(), split_qkv="heads")
    assert split["attn.qkv.weight"] == split["mha.in_proj_weight"] == (3, 8, 8)
    assert heads["attn.qkv.weight"] == (6, 4, 8)
    assert heads["mha.in_proj_weight"] == (12, 2, 8)
    assert heads["cross.q_proj_weight"] == (4, 2, 8)
    assert split["attn.proj.weight"] == heads["attn.proj.weight"] == (1, 8, 8)


def test_weights_are_included_and_excluded_by_name_pattern_or_predicate():
    everything = chosen(Zoo())
    assert set(chosen(Zoo(), include=["own.*"])) - set(everything) == {"own.kernel"}
    assert set(chosen(Zoo(), include=lambda name, p: name.endswith("kernel"))) - set(everything) == {"own.kernel"}
    assert set(everything) - set(chosen(Zoo(), exclude=["mha.*", "up.weight"])) == {
        "mha.in_proj_weight",
        "mha.out_proj.weight",
        "up.weight",
    }
    assert set(chosen(Zoo(), exclude=lambda name, p: p.ndim == 2)) == {
        "conv.weight",
        "depthwise.weight",
        "grouped.weight",
        "up.weight",
    }
    assert set(everything) - set(chosen(Zoo(), head=False)) == {"head.weight"}
    assert chosen(nn.Linear(3, 2), head=False) == {}


def test_frozen_weights_are_left_out_and_tied_ones_chosen_once():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 6))
    model[3].weight = model[0].weight
    model[2].weight = model[1].weight
    model.append(nn.Linear(6, 6).requires_grad_(False))
    assert set(chosen(model)) == {"1.weight", "3.weight"}
    groups = bort_param_groups(model, gamma=0.1)
    assert [len(group["params"]) for group in groups] == [2, 3]  # and the biases


def test_groups_hold_every_parameter_once_and_decay_no_constrained_weight():
    model = Zoo()
    groups = bort_param_groups(model, gamma=0.1, amplitude=0.5, mode="l2-row", split_qkv=True, weight_decay=0.02)
    names = [name for group in groups for name, _ in group["params"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    constrained, matrices, vectors = groups
    assert (constrained["gamma"], constrained["amplitude"], constrained["mode"]) == (0.1, 0.5, "l2-row")
    assert [group["weight_decay"] for group in groups] == [0.0, 0.02, 0.0]
    assert [name for name, _ in matrices["params"]] == ["token", "embed.weight", "own.kernel"]
    assert all(parameter.ndim < 2 for _, parameter in vectors["params"])
    assert (
        dict(zip([name for name, _ in constrained["params"]], constrained["blocks"], strict=True))["attn.qkv.weight"]
        == 3
    )


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.orthogonal, nn.utils.parametrizations.weight_norm])
def test_a_parametrized_weight_is_refused_unless_excluded(wrap):
    model = nn.Sequential(nn.Linear(4, 4), wrap(nn.Linear(4, 3)))
    with pytest.raises(ValueError, match=r"1\.weight is computed by a parametrization"):
        bort_param_groups(model, gamma=0.1)
    beneath = [name for name, p in model.named_parameters() if "original" in name and p.ndim == 2][-1]
    assert set(chosen(model, exclude=["1.weight"])) == {"0.weight"}
    assert set(chosen(model, exclude=["1.weight"], include=[beneath])) == {"0.weight", beneath}


def test_an_uninitialised_parameter_is_refused():
    with pytest.raises(ValueError, match="weight is not initialised yet"):
        bort_param_groups(nn.Sequential(nn.LazyLinear(3)), gamma=0.1)


# ---- reports -------------------------------------------------------------------------------------------------------


def test_a_report_measures_the_distance_from_orthogonality():
    model = nn.Sequential(nn.Linear(9, 6, bias=False), nn.Linear(6, 9, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(orthogonal(6, 9, 0.5))
        model[1].weight.copy_(1.1 * orthogonal(9, 6, 0.5))
    exact, longer = orthogonality_report(model, amplitude=0.5)
    assert exact.residual < 1e-12 and exact.largest_error < 1e-12
    assert longer.largest_error == pytest.approx(0.1)
    assert longer.residual == pytest.approx(1.1**2 - 1)
    gram = model[1].weight.T @ model[1].weight / 0.5
    assert longer.residual == pytest.approx(((gram - torch.eye(6)).norm() / math.sqrt(6)).item())
    assert (exact.rows, exact.columns, longer.rows, longer.columns) == (6, 9, 9, 6)
    norms = model[1].weight.norm(dim=1)
    assert (longer.row_norm, longer.row_spread) == pytest.approx((norms.mean().item(), norms.std(correction=0).item()))


def test_a_report_of_blocks_tells_the_worst():
    model = nn.Conv2d(4, 6, 1, groups=2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.cat([orthogonal(3, 2), 2 * orthogonal(3, 2)]).view(6, 2, 1, 1))
    (report,) = orthogonality_report(model)
    assert report.blocks == 2 and report.largest_error == pytest.approx(1.0)
    assert "2 × 3 × 2" in str(report)


# ---- training methods ----------------------------------------------------------------------------------------------


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 10)
        )


@pytest.fixture
def task(digits):
    images, labels = digits
    return TrainingTask(
        network=network(),
        images=(255 * images[:300]).to(torch.uint8),
        labels=labels[:300],
        num_classes=10,
        recipe=Recipe(epochs=8, batch_size=50),
        seed=0,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("method", METHODS)
def test_real_digits_are_learned_on_weights_that_come_near_orthogonality(task, digits, method):
    trained = method.train(task)
    images, labels = (whole[300:800] for whole in digits)
    assert (trained(images).argmax(1) == labels).float().mean() > 0.7  # an untrained one has 0.1
    free = dataclasses.replace(method, gamma=0.0).train(task.replace(network=network()))
    for constrained, unconstrained in zip(orthogonality_report(trained), orthogonality_report(free), strict=True):
        assert constrained.residual < 0.7 * unconstrained.residual


@pytest.mark.parametrize(
    ("constrained", "plain"),
    [
        (BortSGDMethod(gamma=0.0, constrained_decay=5e-4), SGD()),
        (BortAdamWMethod(gamma=0.0, constrained_decay=0.05), AdamW()),
    ],
)
def test_without_gamma_and_with_equal_decay_the_network_is_the_plain_methods(task, constrained, plain):
    short = task.replace(recipe=Recipe(epochs=2, batch_size=50))
    one, other = constrained.train(short.replace(network=network())), plain.train(short.replace(network=network()))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_the_log_ends_with_each_layers_distance(task, method):
    lines = []
    method.train(task.replace(recipe=Recipe(epochs=1, batch_size=50), note=lines.append))
    assert lines[0].startswith("epoch 1/1")
    assert [line.partition(":")[0] for line in lines[1:]] == ["0.weight (6 × 9)", "4.weight (10 × 384)"]


@pytest.mark.parametrize("amplitude", [0.25, "ada"])
def test_an_orthogonal_start_is_on_the_constraint_and_drawn_by_nobody(amplitude):
    model = nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 12), nn.Conv2d(4, 6, 3, groups=2)).double()
    model[2] = model[2].to(memory_format=torch.channels_last)
    before, bias = torch.get_rng_state(), model[0].bias.clone()
    sizes = [weight.matrices().norm(dim=-1).mean(-1) for weight in constrained_weights(model)]
    again = copy.deepcopy(model)
    _bort_training.start_orthogonal(model, amplitude)
    _bort_training.start_orthogonal(again, amplitude)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model[0].bias, bias)
    for weight, other, size in zip(constrained_weights(model), constrained_weights(again), sizes, strict=True):
        assert torch.equal(weight.parameter, other.parameter)
        wanted = torch.full_like(size, 0.5) if amplitude == 0.25 else size
        values = torch.linalg.svdvals(weight.matrices())
        torch.testing.assert_close(values, wanted[:, None].expand_as(values))


def test_an_orthogonal_start_keeps_weights_that_are_orthogonal_already():
    model = nn.Linear(9, 4, bias=False).double()
    start = torch.linalg.qr(drawn(9, 4))
    with torch.no_grad():  # q with a positive diagonal of r is its own q
        model.weight.copy_((start.Q * start.R.diagonal().sign()).T)
    before = model.weight.clone()
    _bort_training.start_orthogonal(model, 1.0)
    torch.testing.assert_close(model.weight, before)


def test_an_unknown_start_is_the_users_to_mend(task):
    with pytest.raises(SetupError, match="init 'orthgonal' is no start"):
        BortSGDMethod(init="orthgonal").train(task)


def test_a_network_of_one_of_everything_takes_a_step():
    model = Zoo()
    optimiser = BortSGD(bort_param_groups(model, gamma=0.1, split_qkv="heads"), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {weight.name: weight.matrices().clone() for weight in constrained_weights(model, split_qkv="heads")}
    unconstrained = {name: p.clone() for name, p in model.named_parameters() if name not in before}
    optimiser.step()
    for weight in constrained_weights(model, split_qkv="heads"):
        wanted = [old - 0.01 * by_definition(old.double(), 1.0, "l2-full") for old in before[weight.name]]
        torch.testing.assert_close(weight.matrices(), torch.stack(wanted).float(), rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        if name in unconstrained:
            assert torch.equal(parameter, unconstrained[name]), name
