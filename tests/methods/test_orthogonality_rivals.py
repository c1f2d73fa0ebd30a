"""Bort's rivals: penalties, parametrizations and LAMB; what they equal, what they reach, and going on after a stop."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from bench import ops
from bench.contract import Recipe, SetupError, TrainingTask
from bench.execute.checkpoint import FileCheckpoint
from methods.training._bort_selection import constrained_weights, orthogonality_report
from methods.training._orthogonality import annealed, train_with_penalty
from methods.training._parametrized import _parametrize, folded
from methods.training.bort_lamb import BortLamb
from methods.training.bort_sgd import BortSGD
from methods.training.double_soft_orthogonality import DoubleSoftOrthogonality, double_soft_orthogonality
from methods.training.lamb import Lamb
from methods.training.parametrized_orthogonal import ParametrizedOrthogonal
from methods.training.sgd import SGD
from methods.training.soft_orthogonality import SoftOrthogonality, soft_orthogonality
from methods.training.spectral_norm import SpectralNorm
from methods.training.srip import SRIP, spectral_isometry

SHAPES = [(4, 7), (5, 5), (7, 4)]  # wide, square, tall
PENALISED = [SoftOrthogonality(), DoubleSoftOrthogonality(), SRIP()]
PARAMETRIZED = [SpectralNorm(), ParametrizedOrthogonal()]
RIVALS = [*PENALISED, *PARAMETRIZED, Lamb(step_size=0.02)]


def drawn(*shape, seed=0):
    return 0.6 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(rows, columns, seed=0):
    u, _, v = torch.linalg.svd(drawn(rows, columns, seed=seed), full_matrices=False)
    return u @ v


class Digits(nn.Module):
    """A wide, a grouped and a tall kernel, dropout, and a head, for 8 × 8 digits, in the dtype of its weights."""

    def __init__(self, dropout=0.2):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(1, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.grouped = nn.Conv2d(6, 6, 3, stride=2, groups=2)
            self.tall = nn.Conv2d(6, 12, 1)
            self.dropout = nn.Dropout(dropout)
            self.head = nn.Linear(12 * 9, 10)

    def forward(self, images):
        hidden = self.norm(self.stem(images.to(self.head.weight.dtype))).relu()
        return self.head(self.dropout(self.tall(self.grouped(hidden)).relu().flatten(1)))


@pytest.fixture
def task(digits):
    images, labels = digits
    return TrainingTask(
        network=Digits(),
        images=(255 * images[:300]).to(torch.uint8),
        labels=labels[:300],
        num_classes=10,
        recipe=Recipe(epochs=3, batch_size=50, augment="shift4_flip", ema=0.9),
        seed=0,
        device=torch.device("cpu"),
    )


def singular_values(network):
    """Name → singular values of each kernel and matrix; of a grouped kernel those of its groups."""
    return {
        name: torch.linalg.svdvals((p.view(2, 3, -1) if "grouped" in name else p.flatten(1)).detach().double())
        for name, p in network.named_parameters()
        if p.ndim > 1
    }


# ---- penalties -----------------------------------------------------------------------------------------------------


def distance(vectors):
    """Σ over pairs of vectors of (their inner product − 1 if they are the same)², as a plain loop."""
    return sum((float(one @ other) - (i == j)) ** 2 for i, one in enumerate(vectors) for j, other in enumerate(vectors))


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_orthogonality_is_the_sum_over_pairs_of_columns(shape):
    matrices = drawn(2, *shape)
    assert soft_orthogonality(matrices).item() == pytest.approx(sum(distance(w.T) for w in matrices), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_double_soft_orthogonality_adds_the_pairs_of_rows(shape):
    matrices = drawn(2, *shape)
    expected = sum(distance(w.T) + distance(w) for w in matrices)
    assert double_soft_orthogonality(matrices).item() == pytest.approx(expected, rel=1e-12)


def isometry(weight):
    """max |σ² − 1| of one matrix, from the eigenvalues of the Gram matrix of its shorter side."""
    gram = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
    return (torch.linalg.eigvalsh(gram) - 1).abs().max().item()


@pytest.mark.parametrize("shape", SHAPES)
def test_spectral_isometry_is_the_largest_eigenvalue_when_iterated_and_below_it_before(shape):
    matrices, expected = drawn(2, *shape), [isometry(w) for w in drawn(2, *shape)]
    torch.manual_seed(0)
    converged = spectral_isometry(matrices, iterations=2000, squared=False).item()
    assert converged == pytest.approx(sum(expected), rel=1e-6)
    squared = spectral_isometry(matrices, iterations=2000, squared=True).item()
    assert squared == pytest.approx(sum(value**2 for value in expected), rel=1e-6)
    once = [spectral_isometry(matrices, iterations=1, squared=False).item() for _ in range(20)]
    assert max(once) <= sum(expected)
    assert len(set(once)) == 20  # another start each time
    assert min(once) > 0.2 * sum(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_iteration_is_exact_where_all_singular_values_are_equal(shape):
    weight = math.sqrt(3) * orthogonal(*shape)[None]
    assert spectral_isometry(weight, iterations=1, squared=False).item() == pytest.approx(2)
    assert spectral_isometry(weight, iterations=1, squared=True).item() == pytest.approx(4)


@pytest.mark.parametrize("squared", [True, False])
def test_spectral_isometry_of_the_identity_is_zero_with_a_finite_gradient(squared):
    weight = torch.eye(3, 5).requires_grad_()
    value = spectral_isometry(weight[None], iterations=1, squared=squared)
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(weight.grad, torch.zeros(3, 5))


def test_the_penalty_is_told_the_share_of_steps_done(task):
    shares = []

    def penalty(network, done):
        shares.append(done)
        return network.head.bias.sum() * 0

    ops.fit(task, torch.optim.SGD(task.network.parameters(), lr=0.1), penalty=penalty)
    assert shares == [step / 18 for step in range(18)]


def test_penalties_are_computed_in_full_precision(task):
    seen = []

    def penalty(matrices):
        seen.append((torch.is_autocast_enabled("cpu"), matrices.dtype))
        return matrices.sum()

    train_with_penalty(task.replace(recipe=Recipe(epochs=1, precision="bf16")), SoftOrthogonality(), penalty)
    assert set(seen) == {(False, torch.float32)}


def test_annealing_follows_the_published_epochs_of_two_hundred():
    epochs = [0, 19, 20, 49, 50, 69, 70, 119, 120, 199]
    assert [annealed(epoch / 200) for epoch in epochs] == [1, 1, 1e-3, 1e-3, 1e-4, 1e-4, 1e-6, 1e-6, 0, 0]


def test_an_annealed_penalty_has_the_run_that_its_factors_say(task):
    """With the constraint switched off from the first step on, annealed or not, it is SGD without decay of weights."""
    off = SoftOrthogonality(strength=0.0).train(task.replace(network=Digits()))
    plain = SGD(weight_decay=0.0).train(task.replace(network=Digits()))
    assert_same(off, plain)
    constant, fading = (
        SoftOrthogonality(annealed=fades).train(task.replace(network=Digits())) for fades in (False, True)
    )
    residuals = [ops.orthogonality(network)["head.weight"].residual for network in (constant, fading, off)]
    assert residuals == sorted(residuals)
    assert residuals[0] < residuals[1] < residuals[2]


# ---- what they are equal to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_bort_is_soft_orthogonality_at_a_quarter_and_double_at_an_eighth(task, decay):
    """60 steps with momentum and decay, wide, grouped and tall weights, all in double precision."""
    gamma = 0.2
    methods = [
        BortSGD(gamma=gamma, constrained_decay=decay),
        SoftOrthogonality(strength=gamma / 4, constrained_decay=decay),
        DoubleSoftOrthogonality(strength=gamma / 8, constrained_decay=decay),
    ]
    task = task.replace(recipe=Recipe(epochs=10, batch_size=50))
    bort, single, double = (method.train(task.replace(network=Digits().double())).state_dict() for method in methods)
    free = SGD().train(task.replace(network=Digits().double())).state_dict()
    for name, tensor in bort.items():
        torch.testing.assert_close(single[name], tensor, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(double[name], tensor, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(free["head.weight"], bort["head.weight"], atol=1e-2)


def test_lamb_is_bort_lamb_without_its_constraint(task):
    plain = Lamb().train(task.replace(network=Digits()))
    assert_same(plain, BortLamb(gamma=0.0, constrained_decay=0.02).train(task.replace(network=Digits())))


def test_a_first_step_of_lamb_is_as_long_as_its_weights(task):
    """After one step Adam's direction is the gradient's sign; LAMB rescales it, decay included, to ‖W‖."""
    task = task.replace(network=Digits(dropout=0.0), recipe=Recipe(epochs=1, batch_size=300, warmup_epochs=0.0))
    before = {name: p.detach().clone() for name, p in task.network.named_parameters()}
    after = dict(Lamb(step_size=0.01, weight_decay=0.0).train(task).named_parameters())
    adam = after["head.bias"] - before["head.bias"]
    assert torch.allclose(adam.abs(), torch.full_like(adam, 0.01), atol=1e-4)
    task = task.replace(network=Digits(dropout=0.0))
    after = dict(Lamb(step_size=0.01, weight_decay=1e-6).train(task).named_parameters())
    length = (after["head.weight"] - before["head.weight"]).norm()
    assert length.item() == pytest.approx(0.01 * before["head.weight"].norm().item(), rel=1e-4)


# ---- parametrizations ----------------------------------------------------------------------------------------------


class Shapes(nn.Module):
    """Every kind of weight that can be parametrized."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.tall = nn.Linear(4, 9)

    def forward(self, images):
        hidden = self.up(self.norm(self.depthwise(self.wide(images)))).flatten(2).mT  # (B, tokens, 4)
        return self.tall(self.attention(hidden, hidden, hidden)[0]).sum(1)


WRAPS = {
    "spectral_norm": (lambda module: parametrizations.spectral_norm(module, dim=0), True),
    **{
        name: (lambda module, name=name: parametrizations.orthogonal(module, orthogonal_map=name), False)
        for name in ("cayley", "matrix_exp", "householder")
    },
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_folded_network_computes_what_the_parametrized_one_did(wrap, layout):
    torch.manual_seed(0)
    plain = Shapes().to(memory_format=layout)
    network = copy.deepcopy(plain)
    names = [weight.name for weight in constrained_weights(network)]
    for weight in constrained_weights(network):
        _parametrize(network, weight, *WRAPS[wrap])
    images = torch.randn(2, 3, 7, 7)
    for parameter in network.parameters():  # away from the start
        parameter.data += 0.01 * torch.randn(parameter.shape).tril(-1) if parameter.ndim > 1 else 0.1
    network.train()(images)
    kinds, keys = [type(module) for module in plain.modules()], list(plain.state_dict())
    result = folded(network, plain)
    torch.testing.assert_close(result(images), network.eval()(images))
    assert result is plain
    assert [type(module) for module in plain.modules()] == kinds
    assert list(plain.state_dict()) == keys
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    matrices = {weight.name: weight.matrices().double() for weight in constrained_weights(plain)}
    assert list(matrices) == names and len(names) == 6
    for name, matrix in matrices.items():
        values = torch.linalg.svdvals(matrix)
        if wrap == "spectral_norm":
            assert values.max() < 1.1, name
        else:
            torch.testing.assert_close(values, torch.ones_like(values), atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrap", WRAPS)
def test_parametrized_weights_are_computed_in_full_precision(wrap):
    network = nn.Sequential(nn.Conv2d(3, 8, 3))
    _parametrize(network, constrained_weights(network)[0], *WRAPS[wrap])
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        short = network[0].weight
    assert short.dtype == torch.float32
    assert torch.equal(short, network[0].weight)


@pytest.mark.parametrize("method", PARAMETRIZED)
def test_a_parametrized_method_returns_the_tasks_own_network_with_ordinary_weights(task, method):
    ordinary = Digits()
    trained = method.train(task)
    assert type(trained) is Digits and not trained.training
    assert not any(parametrize.is_parametrized(module) for module in trained.modules())
    assert [(name, p.shape) for name, p in trained.named_parameters()] == [
        (name, p.shape) for name, p in ordinary.named_parameters()
    ]
    assert all(isinstance(p, nn.Parameter) and p.is_leaf and p.requires_grad for p in trained.parameters())
    ordinary.load_state_dict(trained.state_dict())
    images = task.images[:5].float() / 255
    assert torch.equal(ordinary.eval()(images), trained(images))


@pytest.mark.parametrize("method", PARAMETRIZED)
def test_modules_that_share_a_weight_are_refused(task, method):
    tied = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    tied[2].weight = tied[1].weight
    with pytest.raises(SetupError, match=r"1\.weight and 2\.weight are one weight"):
        method.train(task.replace(network=tied))


# ---- after training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orthogonal_map", ["cayley", "matrix_exp", "householder"])
@pytest.mark.parametrize("recipe", [{"ema": 0.9}, {"precision": "bf16"}])
def test_parametrized_weights_end_orthogonal(task, orthogonal_map, recipe):
    trained = ParametrizedOrthogonal(orthogonal_map=orthogonal_map).train(
        task.replace(recipe=Recipe(epochs=3, batch_size=50, **recipe))
    )
    for name, values in singular_values(trained).items():
        torch.testing.assert_close(values, torch.ones_like(values), atol=2e-5, rtol=0, msg=name)


@pytest.mark.parametrize("recipe", [{"ema": 0.9}, {"precision": "bf16"}])
def test_spectrally_normalised_weights_end_with_a_largest_singular_value_of_one(task, recipe):
    trained = SpectralNorm().train(task.replace(recipe=Recipe(epochs=3, batch_size=50, **recipe)))
    for name, parameter in trained.named_parameters():
        if parameter.ndim > 1:  # a grouped kernel as one matrix
            largest = torch.linalg.svdvals(parameter.detach().flatten(1))[0].item()
            assert largest == pytest.approx(1, abs=2e-3), name
    values = singular_values(trained)
    assert values["grouped.weight"].max() <= 1 + 2e-3
    assert values["head.weight"].min() < 0.9  # bounded, not orthogonal


@pytest.mark.parametrize("method", [SoftOrthogonality(), DoubleSoftOrthogonality(), SRIP(strength=0.1)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_penalty_brings_weights_nearer_to_orthogonal(task, method, precision):
    task = task.replace(recipe=Recipe(epochs=8, batch_size=50, precision=precision))
    near = singular_values(method.train(task.replace(network=Digits())))
    far = singular_values(dataclasses.replace(method, strength=0.0).train(task.replace(network=Digits())))
    for name in near:
        assert (near[name] ** 2 - 1).abs().max() < 0.7 * (far[name] ** 2 - 1).abs().max(), name


@pytest.mark.parametrize("method", RIVALS)
def test_real_digits_are_learned(task, digits, method):
    trained = method.train(task.replace(network=Digits(dropout=0.0), recipe=Recipe(epochs=12, batch_size=50)))
    images, labels = (whole[300:800] for whole in digits)
    assert (trained(images).argmax(1) == labels).float().mean() > 0.7  # an untrained one has 0.1


def test_without_its_head_the_last_layer_is_free(task):
    for method in (SoftOrthogonality(head=False), SpectralNorm(head=False), ParametrizedOrthogonal(head=False)):
        values = singular_values(method.train(task.replace(network=Digits())))["head.weight"]
        assert (values - 1).abs().max() > 0.1


def test_a_record_and_bort_measure_the_same_residuals(task):
    trained = SoftOrthogonality().train(task)
    measured = ops.orthogonality(trained)
    reports = {report.name: report for report in orthogonality_report(trained)}
    assert measured.keys() == reports.keys()
    for name, report in reports.items():
        assert measured[name].residual == pytest.approx(report.residual, rel=1e-12)
        worst = max(abs(measured[name].smallest_sigma - 1), abs(measured[name].largest_sigma - 1))
        assert worst == pytest.approx(report.largest_error, rel=1e-12)


@pytest.mark.parametrize("method", RIVALS)
def test_the_global_generator_decides_nothing(task, method):
    one, other = (method.train(_with_generator(seed, task)) for seed in (1, 2))
    assert_same(one, other)


def _with_generator(seed, task):
    torch.manual_seed(seed)
    return task.replace(network=Digits(), recipe=Recipe(epochs=1, batch_size=50))


# ---- going on ------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for a killed process."""


class StoppingCheckpoint(FileCheckpoint):
    """The harness's own file, after whose n-th save the process dies."""

    def __init__(self, path, stop_after):
        super().__init__(path)
        self.left = stop_after

    def save(self, state):
        super().save(state)
        self.left -= 1
        if self.left == 0:
            raise Stopped


def assert_same(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", [*RIVALS, ParametrizedOrthogonal(orthogonal_map="householder")])
@pytest.mark.parametrize(("stop", "ema"), [(1, 0.0), (7, 0.9)])
def test_an_interrupted_run_goes_on_bit_for_bit(task, method, stop, ema, tmp_path, monkeypatch):
    monkeypatch.setattr(ops, "SAVE_EVERY_SECONDS", -1.0)
    task = task.replace(recipe=Recipe(epochs=3, batch_size=50, ema=ema))
    whole = method.train(task.replace(network=Digits()))
    path = tmp_path / "unfinished.safetensors"
    with pytest.raises(Stopped):
        method.train(task.replace(network=Digits(), checkpoint=StoppingCheckpoint(path, stop)))
    torch.rand(stop)  # the new process has another global generator
    again = StoppingCheckpoint(path, 100)
    assert_same(method.train(task.replace(network=Digits(), checkpoint=again)), whole)
    assert again.left == 100 - (18 - stop)  # it did go on, not begin anew
