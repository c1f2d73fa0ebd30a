import pytest
import torch

from bench.contract import Undefined
from metrics.l2_size import l2_size

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]
REAL = torch.full((2, 3, 2, 2), 0.5, dtype=torch.float64)
LABELS = torch.zeros(2, dtype=torch.long)


def test_a_tenth_everywhere_has_its_size_and_images_wrong_before_have_none():
    logits = torch.tensor([RIGHT, WRONG])
    values = l2_size(generated=REAL - 0.1, real=REAL, clean_logits=logits, labels=LABELS)
    assert values[0].item() == pytest.approx(12**0.5 / 10)
    assert values.isnan().tolist() == [False, True]


def test_agrees_with_its_definition():
    ours, theirs = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = []
    for a, b in zip(ours.double(), theirs.double(), strict=True):
        change = (a - b).flatten().tolist()
        expected.append(sum(p**2 for p in change) ** 0.5)
    logits, labels = torch.tensor([RIGHT] * 3), torch.zeros(3, dtype=torch.long)
    values = l2_size(generated=ours, real=theirs, clean_logits=logits, labels=labels)
    assert values.tolist() == pytest.approx(expected, rel=1e-12)


def test_no_image_right_before_is_undefined_not_zero():
    answer = l2_size(generated=REAL, real=REAL, clean_logits=torch.tensor([WRONG, WRONG]), labels=LABELS)
    assert answer == Undefined("no image was right before the attack")
