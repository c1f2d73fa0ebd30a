"""What gates say at the start, what their estimators let through, and what is asked of them in vain."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.contract import SetupError
from bench.gating import ControllingModule, FixedGate, SalienceGate
from bench.gating.gates import ESTIMATORS, MIXES, is_on, saturating_sigmoid, semantic_hashing
from methods.training._decoupling_losses import alignment_loss, information_loss, sparsity_loss

EDGE = math.log(11)  # where 1.2 σ(g) − 0.1 reaches 1


@pytest.fixture(autouse=True)
def _own_generator():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def phi(z):
    """The standard normal distribution function."""
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def sigmoid(g):
    return 1 / (1 + math.exp(-g))


# ---- the module at the start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fan_in", [16, 64, 300])
def test_a_filter_starts_on_with_076_and_with_noise_with_072(fan_in):
    gates = [ControllingModule(fan_in, 512) for _ in range(6)]
    squeezed = torch.rand(8, fan_in)
    scores = torch.cat([gate.scores(squeezed)[0] for gate in gates])
    assert scores.mean().item() == pytest.approx(1, abs=0.15)  # each is a draw of N(1, 2)
    assert scores.var().item() == pytest.approx(2, rel=0.15)
    assert is_on(scores).mean().item() == pytest.approx(phi(1 / math.sqrt(2)), abs=0.03)  # 0.760
    with_noise = is_on(scores + torch.randn(64, len(scores))).mean().item()
    assert with_noise == pytest.approx(phi(1 / math.sqrt(3)), abs=0.03)  # 0.718


def test_gates_do_not_look_at_the_image_yet_but_may_learn_to():
    gate = ControllingModule(64, 512)
    scores = gate.scores(torch.randn(5, 64))
    assert torch.equal(scores, scores[:1].expand(5, -1))
    gate.values(scores).sum().backward()
    assert (gate.reduce.weight.grad.abs().sum(1) > 0).all()  # every hidden unit


@pytest.mark.parametrize(("fan_in", "hidden"), [(1, 1), (2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (64, 16)])
def test_the_hidden_width_is_a_quarter_of_the_channels_and_one_at_least(fan_in, hidden):
    gate = ControllingModule(fan_in, 10)
    assert gate.reduce.out_features == hidden
    assert gate.scores(torch.rand(2, fan_in)).shape == (2, 10)
    assert gate.multiply_adds == hidden * fan_in + hidden * 10


def test_a_first_score_is_that_of_every_filter_and_image():
    gate = ControllingModule(16, 64, first_score=2.0)
    assert torch.allclose(gate.scores(torch.randn(5, 16)), torch.tensor(2.0), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"reduction": 0.5}, "reduction should be at least 1, got 0.5"),
        ({"reduction": math.nan}, "reduction should be at least 1, got nan"),
        ({"estimator": "sematic_hashing"}, "no estimator named 'sematic_hashing'"),
        ({"mix": "batch"}, "no mix named 'batch'"),  # the rule of the 2020 release, a defect
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, text):
    with pytest.raises(SetupError, match=text):
        ControllingModule(8, 8, **wrong)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_are_bits_in_eval_mode_without_noise(estimator):
    gate = ControllingModule(16, 64, estimator=estimator).eval()
    scores = 3 * torch.randn(20, 64)
    values = gate.values(scores)
    assert torch.equal(values, (scores > 0).float())
    assert torch.equal(values, gate.values(scores))


def test_a_score_that_is_no_number_switches_on():
    assert is_on(torch.tensor([torch.nan, -1.0, 0.0, 1e-30, torch.inf])).tolist() == [1, 0, 0, 1, 1]


# ---- estimators ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("mix", MIXES)
def test_training_values_lie_between_0_and_1_and_have_gradients(estimator, mix):
    scores = (2 * torch.randn(50, 32)).requires_grad_()
    values = ESTIMATORS[estimator](scores, mix)
    assert values.min() >= 0 and values.max() <= 1
    values.sum().backward()
    assert (scores.grad >= 0).all() and (scores.grad > 0).any()


@pytest.mark.parametrize("z", [-2.0, -0.5, 0.0, 1.0, 2.5])
def test_a_bit_is_1_with_the_probability_phi_of_its_score(z):
    values = semantic_hashing(torch.full((400, 200), z), "entry")
    bits = (values == 0) | (values == 1)
    # soft values reach 0 and 1 only for |g| ≥ ln 11; what is left of the bits are coins of Φ(z)
    ones, clipped = (values == 1).float().mean().item(), 1 - phi(EDGE - z)
    assert ones == pytest.approx(0.5 * phi(z) + 0.5 * clipped, abs=0.01)
    share_clipped = clipped + phi(-EDGE - z)
    assert bits.float().mean().item() == pytest.approx(0.5 + 0.5 * share_clipped, abs=0.01)


@pytest.mark.parametrize(
    ("z", "percent"), [(0, 98), (1, 92), (2, 65), (3, 27), (4, 5), (5, 0.5), (-1, 92), (-2, 65), (-3, 27), (-5, 0.5)]
)
def test_the_share_of_gates_that_still_get_a_gradient_falls_as_told(z, percent):
    scores = torch.full((500, 400), float(z), requires_grad=True)
    semantic_hashing(scores, "entry").sum().backward()
    found = (scores.grad != 0).float().mean().item()
    assert found == pytest.approx(phi(EDGE - z) - phi(-EDGE - z), abs=0.004)
    assert 100 * found == pytest.approx(percent, abs=0.9)


@settings(max_examples=60, deadline=None)
@given(st.floats(-6, 6, width=32))
def test_the_saturating_sigmoid_is_its_formula_and_so_is_its_slope(g):
    score = torch.tensor([g], dtype=torch.float64, requires_grad=True)
    value = saturating_sigmoid(score)
    assert value.item() == pytest.approx(min(1.0, max(0.0, 1.2 * sigmoid(g) - 0.1)), abs=1e-12)
    value.backward()
    if abs(abs(g) - EDGE) > 1e-6:
        slope = 1.2 * sigmoid(g) * (1 - sigmoid(g)) if abs(g) < EDGE else 0.0
        assert score.grad.item() == pytest.approx(slope, abs=1e-12)


def test_hard_values_pass_the_gradient_of_the_soft_ones(monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # g is the score
    scores = torch.linspace(-4, 4, 400).expand(50, -1).clone().requires_grad_()
    values = semantic_hashing(scores, "entry")
    values.sum().backward()
    wanted = [1.2 * sigmoid(g) * (1 - sigmoid(g)) if abs(g) < EDGE else 0.0 for g in scores[0].tolist()]
    assert torch.allclose(scores.grad, torch.tensor(wanted).expand(50, -1), atol=1e-6)
    inside = scores.abs() < EDGE - 1e-3
    hard = (values == (scores > 0)) & inside
    assert hard[inside].float().mean().item() == pytest.approx(0.5, abs=0.02)
    soft = 1.2 * scores.sigmoid() - 0.1
    assert torch.allclose(values[inside & ~hard], soft[inside & ~hard], atol=1e-6)


@pytest.mark.parametrize("channels", [64, 512])
def test_the_channel_mix_makes_about_two_in_five_channels_hard_for_the_whole_batch(channels):
    scores = torch.zeros(16, channels)
    shares = []
    for _ in range(60):
        values = semantic_hashing(scores, "channel")
        hard = ((values == 0) | (values == 1)).float().mean(0)  # by clipping alone 1.6 % of the others
        shares.append((hard == 1).float().mean().item())
    drawn = 1 - (1 - 1 / channels) ** (channels // 2)  # with replacement
    assert 0.39 < drawn < 0.40
    assert sum(shares) / len(shares) == pytest.approx(drawn, abs=0.01)


def test_the_rules_for_an_ablation_have_their_own_gradients():
    scores = torch.tensor([[-3.0, -0.5, 0.7, 5.0]], requires_grad=True)
    values = ESTIMATORS["straight_through_sigmoid"](scores, "entry")
    assert values.tolist() == [[0, 0, 1, 1]]
    values.sum().backward()
    wanted = [sigmoid(g) * (1 - sigmoid(g)) for g in scores[0].tolist()]
    assert scores.grad[0].tolist() == pytest.approx(wanted, rel=1e-5)


def test_gumbel_bits_are_on_with_the_sigmoid_of_the_score():
    values = ESTIMATORS["gumbel_sigmoid"](torch.full((300, 300), 0.8), "entry")
    assert (values > 0.5).float().mean().item() == pytest.approx(sigmoid(0.8), abs=0.01)
    concrete = ESTIMATORS["hard_concrete"](torch.zeros(300, 300), "entry")
    edge = 2 / 3 * EDGE  # logistic noise of this size clips: σ(x / (2/3)) is 1/12 or 11/12 there
    assert (concrete == 0).float().mean().item() == pytest.approx(sigmoid(-edge), abs=0.01)
    assert (concrete == 1).float().mean().item() == pytest.approx(sigmoid(-edge), abs=0.01)


# ---- gates that do not learn bits ----------------------------------------------------------------------------------


def test_a_fixed_gate_is_its_mask_for_every_image():
    bits = torch.tensor([True, False, False, True])
    gate = FixedGate(bits)
    assert gate.values(gate.scores(torch.randn(3, 7))).tolist() == [[1, 0, 0, 1]] * 3
    assert gate.scores(torch.randn(0, 7)).shape == (0, 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.floats(0.01, 1))
def test_a_salience_gate_keeps_the_ceiling_of_its_share(filters, keep):
    gate = SalienceGate(5, filters, keep=keep)
    torch.nn.init.constant_(gate.predict.bias, 50.0)  # no saliency is 0 by itself
    kept = (gate.values(gate.scores(torch.randn(4, 5))) != 0).sum(1)
    assert kept.tolist() == [math.ceil(round(keep * filters, 6))] * 4


def test_a_salience_gate_scales_by_the_saliencies_that_win():
    gate = SalienceGate(3, 4, keep=0.5)
    with torch.no_grad():
        gate.predict.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]]))
        gate.predict.bias.zero_()
    values = gate.values(gate.scores(torch.tensor([[3.0, 1, 2], [0.5, -1, -1]])))
    assert values.tolist() == [[3, 0, 2, 0], [0.5, 0, 0, 1.5]]


# ---- losses --------------------------------------------------------------------------------------------------------


def test_losses_of_one_layer_are_those_by_hand():
    gates = torch.rand(6, 10, dtype=torch.float64)
    head, labels = torch.randn(4, 10, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2, 0])
    by_hand = 0.0
    for a, y in zip(gates.tolist(), labels.tolist(), strict=True):
        logits = [sum(w * v for w, v in zip(row, a, strict=True)) for row in head.tolist()]
        by_hand += (math.log(sum(math.exp(one) for one in logits)) - logits[y]) / 6
    assert information_loss(gates, head, labels).item() == pytest.approx(by_hand)
    for rate in (0.0, 0.3, 0.9):
        mean = sum(sum(row) for row in gates.tolist()) / 6
        assert sparsity_loss(gates, rate).item() == pytest.approx(abs(mean - rate * 10))


def kl(p, q):
    return sum(one * math.log(one / other) for one, other in zip(p, q, strict=True))


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def test_the_alignment_is_the_divergence_in_either_direction_and_mean():
    gates, pooled = torch.rand(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    pairs = [(softmax(o), softmax(a)) for o, a in zip(pooled.tolist(), gates.tolist(), strict=True)]
    forward, backward = sum(kl(u, v) for u, v in pairs), sum(kl(v, u) for u, v in pairs)
    assert alignment_loss(pooled, gates).item() == pytest.approx(forward / 35)
    assert alignment_loss(pooled, gates, "gate_to_output").item() == pytest.approx(backward / 35)
    assert alignment_loss(pooled, gates, "output_to_gate", "samples").item() == pytest.approx(forward / 5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.floats(-5, 5))
def test_no_divergence_where_outputs_are_the_gates_and_a_constant(channels, constant):
    gates = torch.rand(3, channels, dtype=torch.float64)
    assert alignment_loss(gates + constant, gates).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("labels", [[0, 1, 2], [3, 3, 3]])
def test_a_head_of_zeros_knows_ln_k(labels):
    loss = information_loss(torch.rand(3, 8), torch.zeros(4, 8), torch.tensor(labels))
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize(("channels", "mean"), [(64, 0.0019), (512, 0.0002)])
def test_a_half_on_mask_is_012_nat_from_even(channels, mean):
    gates = (torch.arange(channels) % 2).double()[None]
    even = torch.zeros(1, channels, dtype=torch.float64)
    assert alignment_loss(even, gates, mean="samples").item() == pytest.approx(0.12, abs=0.005)
    assert alignment_loss(even, gates).item() == pytest.approx(mean, abs=0.00005)


@pytest.mark.parametrize(
    ("weight", "rate", "widths", "size"),
    [
        (1.5e-4, 0.0, [16] * 18 + [32] * 18 + [64] * 18, 0.21),  # ResNet-56
        (0.01, 0.6, [64] * 4 + [128] * 5 + [256] * 5 + [512] * 5, 4.7),  # ResNet-18
        (0.01, 0.5, [64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512], 8.3),  # VGG-16
    ],
)
def test_the_first_steps_sparsity_is_as_large_as_told(weight, rate, widths, size):
    total = 0.0
    for width in widths:
        gate = ControllingModule(width, width)
        total += sparsity_loss(gate.values(gate.scores(torch.rand(64, width))), rate).item()
    assert weight * total == pytest.approx(size, rel=0.06)
