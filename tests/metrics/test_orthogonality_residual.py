import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from bench.contract import ShapeError, Undefined
from bench.ops import orthogonality
from metrics.orthogonality_residual import orthogonality_residual


def residual(*layers):
    return orthogonality_residual(target=SimpleNamespace(network=nn.Sequential(*layers)))


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def rotation(size):
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q


def by_definition(weight):
    """‖Gram − I‖ / √side of the shorter side's vectors, entry by entry."""
    vectors = [row.double() for row in (weight if len(weight) <= weight.shape[1] else weight.T).detach()]
    squares = [(float(a @ b) - (i == j)) ** 2 for i, a in enumerate(vectors) for j, b in enumerate(vectors)]
    return math.sqrt(sum(squares) / len(vectors))


@pytest.mark.parametrize("shape", [(3, 8), (8, 8), (8, 3)])
def test_semi_orthogonal_weights_have_none_and_twice_as_long_ones_three(shape):
    weight = rotation(8)[: shape[0], : shape[1]]
    assert residual(linear(weight)).item() < 1e-6  # the layer's own float32
    assert residual(linear(2 * weight)).item() == pytest.approx(3, rel=1e-6)
    assert residual(linear(0 * weight)).item() == 1.0


@pytest.mark.parametrize("shape", [(3, 8), (5, 5), (8, 3)])
def test_agrees_with_its_definition(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert residual(linear(weight)).item() == pytest.approx(by_definition(weight), rel=1e-10)


def test_layers_are_averaged_and_others_left_out():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 5, 3), nn.ConvTranspose1d(4, 2, 3)
    expected = (by_definition(first.weight.flatten(1)) + by_definition(second.weight.flatten(1))) / 2
    found = residual(first, nn.BatchNorm2d(5), nn.Embedding(9, 4), second, first)  # the same layer again counts once
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_of_a_grouped_convolution_the_worst_group_counts():
    layer = nn.Conv2d(4, 6, 3, groups=2)
    expected = max(by_definition(layer.weight[:3].flatten(1)), by_definition(layer.weight[3:].flatten(1)))
    assert residual(layer).item() == pytest.approx(expected, rel=1e-10)


def test_all_projections_of_attention_count():
    fused, apart = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=6, vdim=5)
    assert list(orthogonality(fused)) == ["in_proj_weight", "out_proj.weight"]
    names = ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    assert list(orthogonality(apart)) == names
    assert orthogonality(fused)["in_proj_weight"].residual == pytest.approx(by_definition(fused.in_proj_weight))


def test_extreme_singular_values_are_told():
    (layer,) = orthogonality(linear(torch.diag(torch.tensor([0.5, 2.0, 1.0])))).values()
    assert layer._asdict() == pytest.approx(
        {"residual": math.sqrt((0.75**2 + 9) / 3), "smallest_sigma": 0.5, "largest_sigma": 2.0}
    )
    (flat,) = orthogonality(linear(torch.ones(2, 3))).values()
    assert (flat.smallest_sigma, flat.largest_sigma) == pytest.approx((0, math.sqrt(6)), abs=1e-7)


def test_computed_and_frozen_weights_count_as_they_are():
    layers = [parametrizations.orthogonal(nn.Linear(5, 4)) for _ in range(3)]
    network = nn.Sequential(*layers).requires_grad_(False)
    found = orthogonality(network)
    assert list(found) == ["0.weight", "1.weight", "2.weight"]
    assert max(layer.residual for layer in found.values()) < 1e-5


def test_without_a_matrix_there_is_no_value():
    assert residual(nn.BatchNorm2d(3)) == Undefined("the network has no convolution, linear layer or attention")


def test_a_weight_that_is_not_finite_is_refused():
    with pytest.raises(ShapeError, match=r"0\.weight should be finite, got 1 of 6"):
        residual(linear(torch.tensor([[1.0, math.nan, 0.0], [0.0, 1.0, 0.0]])))


def test_the_network_is_left_as_it_was(tiny_classifier):
    before, state = tiny_classifier.checksum(), torch.get_rng_state()
    assert orthogonality_residual(target=tiny_classifier) > 0
    assert tiny_classifier.checksum() == before
    assert torch.equal(torch.get_rng_state(), state)
