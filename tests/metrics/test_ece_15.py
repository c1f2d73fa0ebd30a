import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from bench.contract import Undefined
from metrics.ece_15 import ece_15


def logits_of(confidences):
    """Two-class logits whose first class has the given softmax probability."""
    return torch.tensor([[math.log(p / (1 - p)), 0.0] for p in confidences], dtype=torch.float64)


def by_definition(logits, labels):
    """Guo et al., equation 3, as plain loops over bins and images."""
    total = 0.0
    rows = [[math.exp(logit) for logit in row] for row in logits.tolist()]
    confidences = [max(row) / sum(row) for row in rows]
    hits = [row.index(max(row)) == label for row, label in zip(rows, labels.tolist(), strict=True)]
    for b in range(1, 16):
        inside = [i for i, p in enumerate(confidences) if (b - 1) / 15 < p <= b / 15]
        if inside:
            accuracy = sum(hits[i] for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return total


def test_always_right_at_confidence_0_9_is_0_1_off():
    assert ece_15(target_logits=logits_of([0.9] * 4), labels=torch.zeros(4, dtype=torch.long)).item() == pytest.approx(
        0.1
    )


def test_right_three_times_in_four_at_confidence_0_75_is_calibrated():
    assert ece_15(target_logits=logits_of([0.75] * 4), labels=torch.tensor([0, 0, 0, 1])).item() == pytest.approx(0)


@pytest.mark.parametrize("lower", range(8, 15))  # two classes cannot be less sure than 1/2, the middle of bin 8
def test_errors_in_neighbouring_bins_do_not_cancel_and_in_one_bin_do(lower):
    below, above = (lower - 0.3) / 15, (lower + 0.3) / 15
    apart = ece_15(target_logits=logits_of([below, above]), labels=torch.tensor([0, 1]))
    assert apart.item() == pytest.approx((1 - below + above) / 2)
    together = ece_15(target_logits=logits_of([below, below]), labels=torch.tensor([0, 1]))
    assert together.item() == pytest.approx(abs(0.5 - below))


def test_agrees_with_its_definition_and_with_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    logits, labels = 2 * torch.randn(300, 5, generator=generator), torch.randint(0, 5, (300,), generator=generator)
    answer = ece_15(target_logits=logits, labels=labels).item()
    assert answer == pytest.approx(by_definition(logits, labels), rel=1e-10)
    reference = multiclass_calibration_error(logits, labels, num_classes=5, n_bins=15, norm="l1").item()
    assert answer == pytest.approx(reference, abs=1e-5)


def test_no_images_are_undefined():
    answer = ece_15(target_logits=torch.zeros(0, 3), labels=torch.zeros(0, dtype=torch.long))
    assert answer == Undefined("calibration needs images, got none")
