import pytest
import torch
from sklearn.metrics import roc_auc_score

from bench.contract import ShapeError, Undefined
from metrics.auroc import auroc


def test_perfect_reversed_and_constant_scores():
    attacked = torch.tensor([True, True, False, False])
    assert auroc(scores=torch.tensor([4.0, 3.0, 2.0, 1.0]), attacked=attacked).item() == 1
    assert auroc(scores=torch.tensor([1.0, 2.0, 3.0, 4.0]), attacked=attacked).item() == 0
    assert auroc(scores=torch.zeros(4), attacked=attacked).item() == 0.5


@pytest.mark.parametrize("levels", [5, 10_000])
def test_agrees_with_scikit_learn_with_many_and_few_ties(levels):
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (400,), generator=generator).float()
    attacked = torch.rand(400, generator=generator) < 0.3
    expected = roc_auc_score(attacked.numpy(), scores.numpy())
    assert auroc(scores=scores, attacked=attacked).item() == pytest.approx(expected, rel=1e-12)


def test_an_infinite_score_is_just_the_highest():
    answer = auroc(scores=torch.tensor([float("inf"), 1.0, 2.0]), attacked=torch.tensor([True, False, False]))
    assert answer.item() == 1


def test_one_kind_alone_is_undefined():
    answer = auroc(scores=torch.zeros(3), attacked=torch.zeros(3, dtype=torch.bool))
    assert answer == Undefined("needs images of both kinds, got 0 attacked and 3 clean")


def test_missing_scores_are_refused():
    with pytest.raises(ShapeError, match="scores should have an order, got 1 NaN of 2"):
        auroc(scores=torch.tensor([0.0, float("nan")]), attacked=torch.tensor([True, False]))


def test_attacked_as_numbers_is_refused():
    with pytest.raises(ShapeError, match="attacked should be bool"):
        auroc(scores=torch.zeros(2), attacked=torch.tensor([1, 0]))
