import pytest
import torch

from bench.contract import ShapeError
from metrics.top1 import top1

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])


def test_counts_the_largest_logit():
    assert top1(target_logits=LOGITS, labels=torch.tensor([0, 2, 0])).tolist() == [1, 1, 0]


def test_a_tie_goes_to_the_lowest_class():
    flat = torch.zeros(3, 3)
    assert top1(target_logits=flat, labels=torch.tensor([0, 1, 2])).tolist() == [1, 0, 0]


def test_agrees_with_argmax():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (500, 6), generator=generator).float()  # many ties
    labels = torch.randint(0, 6, (500,), generator=generator)
    expected = [
        float(row.tolist().index(max(row.tolist())) == label) for row, label in zip(logits, labels, strict=True)
    ]
    assert top1(target_logits=logits, labels=labels).tolist() == expected


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ShapeError, match="target_logits should be finite, got 1 of 9 numbers that are not"):
        top1(
            target_logits=LOGITS.masked_fill(torch.eye(3, dtype=torch.bool)[:1] & (LOGITS == 2), float("nan")),
            labels=torch.tensor([0, 2, 0]),
        )


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_label_outside_the_classes_is_refused(wrong):
    with pytest.raises(ShapeError, match=r"labels should lie in \[0, 3\)"):
        top1(target_logits=LOGITS, labels=torch.tensor([0, wrong, 0]))


def test_another_number_of_labels_is_refused():
    with pytest.raises(ShapeError, match=r"labels should be \(N\) with N = 3"):
        top1(target_logits=LOGITS, labels=torch.tensor([0, 1]))


def test_floating_point_labels_are_refused():
    with pytest.raises(ShapeError, match="labels should be integers"):
        top1(target_logits=LOGITS, labels=torch.zeros(3))
