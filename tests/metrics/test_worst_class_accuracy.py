import pytest
import torch
from torch.nn import functional as F

from bench.contract import Undefined
from metrics.worst_class_accuracy import worst_class_accuracy


def test_the_worst_of_the_classes_asked_for_counts():
    labels = torch.tensor([0, 0, 0, 0, 3, 3, 3, 3, 3])
    guesses = torch.tensor([0, 0, 0, 1, 3, 3, 1, 2, 3])  # 3 of 4, and 3 of 5
    assert worst_class_accuracy(target_logits=F.one_hot(guesses, 5).float(), labels=labels).item() == pytest.approx(0.6)


def test_classes_that_nobody_asked_for_do_not_count():
    labels = torch.tensor([2, 2])
    assert worst_class_accuracy(target_logits=F.one_hot(labels, 9).float(), labels=labels).item() == 1


def test_agrees_with_a_count_class_by_class():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (200,), generator=generator)
    logits = torch.randn(200, 7, generator=generator) + 2 * F.one_hot(labels, 7)
    shares = []
    for c in range(7):
        mine = [n for n in range(200) if labels[n] == c]
        shares.append(sum(logits[n].argmax().item() == c for n in mine) / len(mine))
    assert worst_class_accuracy(target_logits=logits, labels=labels).item() == pytest.approx(min(shares), abs=1e-12)
    assert min(shares) < sum(shares) / 7


def test_no_images_are_undefined():
    answer = worst_class_accuracy(target_logits=torch.zeros(0, 3), labels=torch.zeros(0, dtype=torch.long))
    assert answer == Undefined("no class was asked for")
