import torch

from bench.contract import Undefined
from metrics.target_top5 import target_top5


def test_the_fifth_counts_and_the_sixth_does_not():
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]).expand(6, 6)
    assert target_top5(target_logits=logits, labels=torch.arange(6)).tolist() == [0, 1, 1, 1, 1, 1]


def test_five_classes_are_undefined_not_perfect():
    answer = target_top5(target_logits=torch.zeros(2, 5), labels=torch.tensor([0, 1]))
    assert answer == Undefined("the five largest of 5 logits are all of them")
