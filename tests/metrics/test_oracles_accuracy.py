"""Accuracy, detection and divergence against scikit-learn, torch and plain NumPy, which share no code with them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    log_loss,
    roc_auc_score,
    roc_curve,
    top_k_accuracy_score,
)
from torch.nn import functional as F

from metrics.aupr import aupr
from metrics.auroc import auroc
from metrics.ece_15 import ece_15
from metrics.inversion_accuracy import inversion_accuracy
from metrics.kl_to_wanted import kl_to_wanted
from metrics.nll import nll
from metrics.top1 import top1
from metrics.top5 import top5
from metrics.tpr_at_5fpr import tpr_at_5fpr

COUNT, CLASSES = 700, 12


@pytest.fixture(scope="module", params=[0, 1])
def guesses(request):
    """Logits and labels; the network is right in about two thirds."""
    generator = torch.Generator().manual_seed(request.param)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
    logits = 2 * torch.randn(COUNT, CLASSES, generator=generator) + 4 * F.one_hot(labels, CLASSES)
    return logits, labels


@pytest.fixture(scope="module", params=[8, 10**6], ids=["ties", "no_ties"])
def alarms(request):
    """Scores of 600 images, a third of them attacked and a little more suspicious."""
    generator = torch.Generator().manual_seed(request.param)
    attacked = torch.rand(600, generator=generator) < 1 / 3
    scores = torch.randint(0, request.param, (600,), generator=generator) + attacked * request.param / 4
    return scores, attacked


def test_accuracies(guesses):
    logits, labels = guesses
    best = logits.argmax(1)
    right = accuracy_score(labels, best)
    assert 0.4 < right < 0.9
    for metric in (top1, inversion_accuracy):
        assert metric(target_logits=logits, labels=labels).mean().item() == pytest.approx(right, abs=1e-12)
    five = top_k_accuracy_score(labels, logits, k=5, labels=range(CLASSES))
    assert top5(target_logits=logits, labels=labels).mean().item() == pytest.approx(five, abs=1e-12)


def test_negative_log_likelihood(guesses):
    logits, labels = guesses
    expected = log_loss(labels, logits.double().softmax(1), labels=range(CLASSES))
    assert nll(target_logits=logits, labels=labels).mean().item() == pytest.approx(expected, rel=1e-9)


def test_calibration_error_by_its_definition(guesses):
    """Guo et al. 2017, equation 3: fifteen bins ((b − 1)/15, b/15], one image after the other."""
    logits, labels = (part.numpy() for part in guesses)
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    chances = powers / powers.sum(1, keepdims=True)
    total = 0.0
    for b in range(1, 16):
        inside = [n for n in range(COUNT) if (b - 1) / 15 < chances[n].max() <= b / 15]
        if inside:
            right = np.mean([chances[n].argmax() == labels[n] for n in inside])
            sure = np.mean([chances[n].max() for n in inside])
            total += len(inside) / COUNT * abs(right - sure)
    assert total > 0.01
    assert ece_15(target_logits=guesses[0], labels=guesses[1]).item() == pytest.approx(total, rel=1e-9)


def test_detection(alarms):
    scores, attacked = alarms
    assert auroc(scores=scores, attacked=attacked).item() == pytest.approx(roc_auc_score(attacked, scores), rel=1e-12)
    expected = average_precision_score(attacked, scores)
    assert aupr(scores=scores, attacked=attacked).item() == pytest.approx(expected, rel=1e-12)
    false, true, _ = roc_curve(attacked, scores, drop_intermediate=False)
    found = tpr_at_5fpr(scores=scores, attacked=attacked).item()
    assert found == pytest.approx(true[false <= 0.05].max(), abs=1e-12)


def test_divergence_from_what_was_asked_for(guesses):
    logits, _ = guesses
    wanted = torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(2)).double().softmax(1)
    expected = F.kl_div(logits.double().log_softmax(1), wanted, reduction="none").sum(1)
    torch.testing.assert_close(
        kl_to_wanted(target_logits=logits, wanted_distribution=wanted), expected, rtol=1e-10, atol=1e-12
    )
