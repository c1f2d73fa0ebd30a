import torch

from bench.contract import Undefined
from metrics.panel_top5 import panel_top5


def test_the_fifth_guess_of_a_network_counts_and_the_sixth_does_not():
    rising = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    both = torch.stack([rising, rising.flip(0)]).expand(6, 2, 6)  # class 0 is the sixth guess of one, 5 of the other
    assert panel_top5(panel_logits=both, labels=torch.arange(6)).tolist() == [0.5, 1, 1, 1, 1, 0.5]


def test_five_classes_are_undefined_not_perfect():
    answer = panel_top5(panel_logits=torch.zeros(2, 3, 5), labels=torch.tensor([0, 1]))
    assert answer == Undefined("the five largest of 5 logits are all of them")
