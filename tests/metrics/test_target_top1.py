import pytest
import torch

from bench.contract import ShapeError
from metrics.target_top1 import target_top1


def test_one_where_the_class_has_the_largest_logit_and_zero_elsewhere():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, 5.0]])
    assert target_top1(target_logits=logits, labels=torch.tensor([0, 2, 2])).tolist() == [1, 0, 1]


def test_a_tie_goes_to_the_lower_class():
    assert target_top1(target_logits=torch.zeros(2, 3), labels=torch.tensor([0, 1])).tolist() == [1, 0]


def test_a_class_that_the_subject_does_not_know_is_refused():
    with pytest.raises(ShapeError, match="the classes of target_logits"):
        target_top1(target_logits=torch.zeros(1, 3), labels=torch.tensor([3]))
