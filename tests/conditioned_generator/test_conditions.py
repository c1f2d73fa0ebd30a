"""What the generator is told: matrices, soft vectors and their law, maps of classes."""

import numpy as np
import pytest
import torch
from scipy import stats

from bench.conditioned_generator.conditions import (
    cross_side,
    default_temperature,
    factored_cross,
    first_argmax,
    hot_matrix,
    soft_vectors,
)


def normals(count, classes, seed=0):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def in_turn(count, classes):
    return torch.arange(count) % classes


# ---- matrices ------------------------------------------------------------------------------------------------------


def test_a_hot_matrix_of_4_has_ones_in_row_and_column_2():
    matrix = hot_matrix(torch.tensor([2]), 4)
    assert matrix.shape == (1, 1, 4, 4)
    assert matrix[0, 0].tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]]
    assert matrix.sum() == 7


def test_the_factored_cross_of_class_999_of_1000_has_row_31_and_column_7():
    cross = factored_cross(torch.tensor([999]), 1000)
    expected = np.zeros((32, 32))
    expected[31, :] = expected[:, 7] = 1
    assert np.array_equal(cross[0, 0].numpy(), expected)
    assert cross.sum() == 63


@pytest.mark.parametrize("classes", [2, 10, 26, 100, 1000])
def test_every_class_has_a_cross_of_its_own(classes):
    crosses = factored_cross(torch.arange(classes), classes).flatten(1)
    assert len(crosses.unique(dim=0)) == classes


@pytest.mark.parametrize(("classes", "side"), [(2, 2), (4, 2), (5, 3), (100, 10), (101, 11), (1000, 32)])
def test_the_cross_is_the_smallest_square_with_room(classes, side):
    assert cross_side(classes) == side


# ---- soft vectors --------------------------------------------------------------------------------------------------

TABLE = [  # spec 3.2: classes, temperature, mean of max p, mean of top-1 − top-2, share of margins below 0.05
    (10, 1.0, 0.320, 0.137, 0.30),
    (10, 0.5, 0.532, 0.333, 0.12),
    (10, 0.25, 0.738, 0.576, 0.05),
    (100, 1.0, 0.081, 0.027, 0.85),
    (100, 0.25, 0.563, 0.398, 0.11),
]


@pytest.mark.parametrize(("classes", "temperature", "largest", "margin", "close"), TABLE)
def test_soft_vectors_are_as_sure_as_the_table_says(classes, temperature, largest, margin, close):
    count = 60_000 if classes == 10 else 20_000
    first, second = soft_vectors(normals(count, classes), temperature).topk(2, 1).values.unbind(1)
    assert first.mean().item() == pytest.approx(largest, abs=0.005)
    assert (first - second).mean().item() == pytest.approx(margin, abs=0.005)
    assert (first - second < 0.05).double().mean().item() == pytest.approx(close, abs=0.01)


def test_a_soft_vector_sums_to_1_and_is_largest_at_the_class_asked_for():
    wanted = in_turn(60_000, 10)
    vectors = soft_vectors(normals(60_000, 10), 1.0, wanted)
    torch.testing.assert_close(vectors.sum(1), torch.ones(60_000))
    assert torch.equal(vectors.argmax(1), wanted)
    assert vectors.max(1).values.mean().item() == pytest.approx(0.320, abs=0.005)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_a_soft_vector_is_the_softmax_of_its_normals_over_the_temperature(temperature):
    drawn = normals(5, 10)
    raised = np.exp(drawn.double().numpy() / temperature)
    expected = raised / raised.sum(1, keepdims=True)
    assert np.allclose(soft_vectors(drawn, temperature).numpy(), expected, atol=1e-6)


def test_exchanging_entries_gives_the_law_of_the_vector_given_its_argmax():
    """Against rejection: draw until the class asked for comes out largest. Entries, their products, the runner-up."""
    wanted, classes = 1, 4
    swapped = soft_vectors(normals(40_000, classes, seed=1), 1.0, torch.full((40_000,), wanted)).double()
    drawn = soft_vectors(normals(160_000, classes, seed=2), 1.0).double()
    kept = drawn[drawn.argmax(1) == wanted]
    assert len(kept) == pytest.approx(40_000, rel=0.02)
    for place in range(classes):
        assert stats.ks_2samp(swapped[:, place], kept[:, place]).pvalue > 1e-3
    assert stats.ks_2samp(swapped.topk(2).values[:, 1], kept.topk(2).values[:, 1]).pvalue > 1e-3
    for one, other in ((0, 1), (0, 2), (1, 3), (2, 3)):
        products = (vectors[:, one] * vectors[:, other] for vectors in (swapped, kept))
        assert stats.ks_2samp(*products).pvalue > 1e-3


def test_of_equal_entries_the_first_is_the_argmax():
    assert first_argmax(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, 1.0, 5.0]])).tolist() == [1, 0, 2]
    vectors = soft_vectors(torch.tensor([[0.0, 2.0, 2.0, 1.0]]), 1.0, torch.tensor([3]))
    assert vectors[0].log().sub(vectors[0].log()[0]).tolist() == pytest.approx([0, 1, 2, 2], abs=1e-6)


@pytest.mark.parametrize(("classes", "temperature"), [(10, 1.0), (20, 1.0), (21, 0.25), (1000, 0.25)])
def test_many_classes_get_sharper_vectors(classes, temperature):
    assert default_temperature(classes) == temperature
