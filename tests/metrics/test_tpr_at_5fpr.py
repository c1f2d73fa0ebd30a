import pytest
import torch
from sklearn.metrics import roc_curve

from bench.contract import Undefined
from metrics.tpr_at_5fpr import tpr_at_5fpr


def test_one_false_alarm_in_twenty_is_allowed_and_two_are_not():
    clean = torch.cat([torch.zeros(18), torch.tensor([5.0, 7.0])])
    suspects = torch.tensor([4.0, 6.0, 6.5, 8.0])
    attacked = torch.arange(24) >= 20
    answer = tpr_at_5fpr(scores=torch.cat([clean, suspects]), attacked=attacked)
    assert answer.item() == 0.75  # threshold between 5 and 6: only the clean 7 raises an alarm


@pytest.mark.parametrize("levels", [7, 10_000])
def test_agrees_with_scikit_learns_curve_with_many_and_few_ties(levels):
    generator = torch.Generator().manual_seed(levels)
    attacked = torch.rand(400, generator=generator) < 0.3
    scores = torch.randint(0, levels, (400,), generator=generator) + attacked * levels // 3
    false_positives, true_positives, _ = roc_curve(attacked.numpy(), scores.numpy(), drop_intermediate=False)
    expected = true_positives[false_positives <= 0.05].max()
    assert tpr_at_5fpr(scores=scores.float(), attacked=attacked).item() == pytest.approx(expected, rel=1e-12)


def test_constant_scores_find_nothing():
    assert tpr_at_5fpr(scores=torch.zeros(40), attacked=torch.arange(40) < 20).item() == 0


def test_fewer_than_twenty_clean_images_are_undefined():
    answer = tpr_at_5fpr(scores=torch.zeros(20), attacked=torch.arange(20) < 1)
    assert answer == Undefined("needs attacked images and 20 clean ones, got 1 and 19")
