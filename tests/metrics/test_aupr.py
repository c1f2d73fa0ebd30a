import pytest
import torch
from sklearn.metrics import average_precision_score

from bench.contract import Undefined
from metrics.aupr import aupr


def test_perfect_scores_are_one_and_constant_scores_the_share_of_attacks():
    attacked = torch.tensor([True, False, False, False])
    assert aupr(scores=torch.tensor([1.0, 0.0, 0.0, 0.0]), attacked=attacked).item() == 1
    assert aupr(scores=torch.zeros(4), attacked=attacked).item() == 0.25


@pytest.mark.parametrize("levels", [5, 10_000])
def test_agrees_with_scikit_learn_with_many_and_few_ties(levels):
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (400,), generator=generator).float()
    attacked = torch.rand(400, generator=generator) < 0.3
    expected = average_precision_score(attacked.numpy(), scores.numpy())
    assert aupr(scores=scores, attacked=attacked).item() == pytest.approx(expected, rel=1e-12)


def test_one_kind_alone_is_undefined():
    answer = aupr(scores=torch.zeros(3), attacked=torch.ones(3, dtype=torch.bool))
    assert answer == Undefined("needs images of both kinds, got 3 attacked and 0 clean")
