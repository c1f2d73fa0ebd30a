import torch
from sklearn.metrics import top_k_accuracy_score

from bench.contract import Undefined
from metrics.top5 import top5


def test_the_fifth_counts_and_the_sixth_does_not():
    logits = torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]).expand(6, 6)
    assert top5(target_logits=logits, labels=torch.arange(6)).tolist() == [1, 1, 1, 1, 1, 0]


def test_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(400, 12, generator=generator), torch.randint(0, 12, (400,), generator=generator)
    expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=5, labels=range(12))
    assert top5(target_logits=logits, labels=labels).mean().item() == expected


def test_five_classes_are_undefined_not_perfect():
    answer = top5(target_logits=torch.zeros(2, 5), labels=torch.tensor([0, 1]))
    assert answer == Undefined("the five largest of 5 logits are all of them")
