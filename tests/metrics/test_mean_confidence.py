import math

import pytest
import torch

from metrics.mean_confidence import mean_confidence


def test_is_the_probability_of_the_class_asked_for_not_the_largest():
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    assert mean_confidence(target_logits=logits, labels=torch.tensor([0, 1])).tolist() == pytest.approx([0.75, 0.25])
