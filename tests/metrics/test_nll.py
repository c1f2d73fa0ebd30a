import math

import pytest
import torch

from metrics.nll import nll


def test_a_network_that_knows_nothing_is_surprised_by_log_k():
    assert nll(target_logits=torch.zeros(2, 10), labels=torch.tensor([0, 9])).tolist() == pytest.approx(
        [math.log(10)] * 2
    )


def test_agrees_with_its_definition():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = [
        -math.log(math.exp(row[label]) / sum(math.exp(logit) for logit in row))
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert nll(target_logits=logits, labels=labels).tolist() == pytest.approx(expected, rel=1e-12)


def test_certainty_of_the_wrong_class_is_large_and_finite():
    assert nll(target_logits=torch.tensor([[1000.0, 0.0]]), labels=torch.tensor([1])).tolist() == [1000.0]
