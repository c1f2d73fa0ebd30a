import pytest
import torch

from bench.contract import ShapeError
from metrics.referee_same_top1 import referee_same_top1


def test_the_referees_class_for_the_original_counts_not_its_confidence():
    made = torch.tensor([[0.1, 0.0, 0.0], [0.0, 5.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    originals = torch.tensor([[7.0, 0.0, 0.0], [0.0, 0.0, 5.0], [1.0, 0.9, 0.0], [0.0, 0.0, 3.0]])
    assert referee_same_top1(referee_logits=made, clean_referee_logits=originals).tolist() == [1, 0, 1, 1]


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(ShapeError, match="clean_referee_logits"):
        referee_same_top1(referee_logits=torch.zeros(3, 4), clean_referee_logits=torch.zeros(3, 5))
