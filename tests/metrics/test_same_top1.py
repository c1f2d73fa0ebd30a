import torch

from metrics.same_top1 import same_top1


def test_the_same_class_counts_whatever_its_confidence():
    ours = torch.tensor([[0.1, 0.0, 0.0], [0.0, 5.0, 0.0], [9.0, 0.0, 0.0]])
    originals = torch.tensor([[7.0, 0.0, 0.0], [0.0, 0.0, 5.0], [1.0, 0.9, 0.0]])
    assert same_top1(target_logits=ours, clean_logits=originals).tolist() == [1, 0, 1]
