import math

import pytest
import torch
from torch.nn import functional as F

from bench.contract import ShapeError
from metrics.kl_to_wanted import kl_to_wanted
from metrics.nll import nll


def test_the_answer_asked_for_has_no_divergence():
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double()
    values = kl_to_wanted(target_logits=logits, wanted_distribution=logits.softmax(1))
    assert values.abs().max() < 1e-12 and values.min() >= 0


def test_one_wanted_class_gives_its_negative_log_likelihood():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(20, 6, generator=generator), torch.randint(0, 6, (20,), generator=generator)
    values = kl_to_wanted(target_logits=logits, wanted_distribution=F.one_hot(labels, 6).float())
    torch.testing.assert_close(values, nll(target_logits=logits, labels=labels))


def test_two_equal_halves_against_a_uniform_answer():
    """½ log(½/¼) twice."""
    values = kl_to_wanted(target_logits=torch.zeros(1, 4), wanted_distribution=torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    assert values.item() == pytest.approx(math.log(2), abs=1e-12)


def test_it_is_the_wanted_side_that_weighs():
    wanted, logits = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]]).log()
    value = kl_to_wanted(target_logits=logits, wanted_distribution=wanted).item()
    assert value == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), abs=1e-7)
    other = kl_to_wanted(target_logits=wanted.log(), wanted_distribution=torch.tensor([[0.5, 0.5]])).item()
    assert abs(value - other) > 0.1


def test_a_certain_and_wrong_answer_is_large_and_finite():
    value = kl_to_wanted(target_logits=torch.tensor([[0.0, 1e4]]), wanted_distribution=torch.tensor([[1.0, 0.0]]))
    assert value.item() == pytest.approx(1e4)


@pytest.mark.parametrize("row", [[0.5, 0.4], [1.5, -0.5], [0.0, 0.0]])
def test_rows_that_are_no_probabilities_are_refused(row):
    with pytest.raises(ShapeError, match="wanted_distribution should hold probabilities"):
        kl_to_wanted(target_logits=torch.zeros(1, 2), wanted_distribution=torch.tensor([row]))
