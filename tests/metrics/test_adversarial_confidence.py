import math

import pytest
import torch

from bench.contract import Undefined
from metrics.adversarial_confidence import adversarial_confidence

LABELS = torch.zeros(4, dtype=torch.long)


def chances(*rows):
    """Logits with these softmax probabilities."""
    return torch.tensor(rows).log()


def test_the_wrong_answers_probability_counts_on_images_that_were_fooled():
    before = chances([0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2])
    after = chances([0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3])
    values = adversarial_confidence(target_logits=after, clean_logits=before, labels=LABELS)
    assert values[0].item() == pytest.approx(0.7, abs=1e-6)
    assert values[3].item() == pytest.approx(0.4, abs=1e-6)
    assert values.isnan().tolist() == [False, True, True, False]  # not fooled; wrong before


def test_a_tie_that_the_lower_class_wins_is_a_wrong_answer_of_one_half():
    before, after = torch.tensor([[0.0, 9.0]]), torch.tensor([[3.0, 3.0]])
    value = adversarial_confidence(target_logits=after, clean_logits=before, labels=torch.tensor([1]))
    assert value.item() == pytest.approx(0.5)


def test_no_success_is_undefined():
    right = chances([0.8, 0.1, 0.1]).expand(4, -1)
    answer = adversarial_confidence(target_logits=right, clean_logits=right, labels=LABELS)
    assert answer == Undefined("no image that was right before the attack is wrong after it")


def test_certainty_is_reached_without_overflow():
    before, after = torch.tensor([[9.0, 0.0]]), torch.tensor([[-1e4, 1e4]])
    value = adversarial_confidence(target_logits=after, clean_logits=before, labels=LABELS[:1]).item()
    assert value == 1 and math.isfinite(value)
