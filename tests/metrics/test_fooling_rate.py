"""The three fooling rates: closed-form probabilities, plain loops, and how they are nested."""

import math
from collections import Counter

import pytest
import torch

from bench.contract import ShapeError
from metrics.fooling_rate_50 import fooling_rate_50
from metrics.fooling_rate_90 import fooling_rate_90
from metrics.fooling_rate_99 import fooling_rate_99

RATES = {0.5: fooling_rate_50, 0.9: fooling_rate_90, 0.99: fooling_rate_99}
every_rate = pytest.mark.parametrize(("confidence", "rate"), RATES.items())


def drawn(count=300, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target_labels = torch.randint(0, classes, (count,), generator=generator)
    favour = 6 * torch.rand(count, 1, generator=generator) * torch.nn.functional.one_hot(target_labels, classes)
    return {
        "target_logits": torch.randn(count, classes, generator=generator) + favour,
        "referee_logits": torch.randn(count, classes, generator=generator),
        "target_labels": target_labels,
    }


def by_definition(confidence, target_logits, referee_logits, target_labels):
    """Image after image in plain Python."""
    values = []
    for seen, judged, t in zip(target_logits.tolist(), referee_logits.tolist(), target_labels.tolist(), strict=True):
        probability = math.exp(seen[t]) / sum(math.exp(logit) for logit in seen)
        sure = probability >= confidence and seen.index(max(seen)) == t
        values.append(float(sure and judged.index(max(judged)) != t))
    return values


@every_rate
def test_agrees_with_its_definition(confidence, rate):
    inputs = drawn()
    expected = by_definition(confidence, **inputs)
    assert set(Counter(expected)) == {0.0, 1.0}
    assert rate(**inputs).tolist() == expected


@every_rate
def test_just_below_the_confidence_does_not_count(confidence, rate):
    # two classes a log-odds apart: the probability of class 0 is known
    logits = torch.tensor([[math.log(p / (1 - p)), 0.0] for p in (confidence + 1e-3, confidence - 1e-3)])
    judged = torch.tensor([[0.0, 1.0]]).expand(2, 2)
    answer = rate(target_logits=logits, referee_logits=judged, target_labels=torch.zeros(2, dtype=torch.long))
    assert answer.tolist() == [1.0, 0.0]


def test_a_referee_that_agrees_is_not_fooled_however_sure_the_subject_is():
    sure, torn = torch.tensor([[50.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])  # of equal logits the first decides
    for judged, fooled in ((sure, 0.0), (torn, 0.0), (torn.roll(1, 1), 1.0), (sure.roll(1, 1), 1.0)):
        answer = fooling_rate_90(target_logits=sure, referee_logits=judged, target_labels=torch.tensor([0]))
        assert answer.tolist() == [fooled]


def test_more_confidence_is_never_reached_more_often():
    inputs = drawn(seed=1)
    half, most, nearly_all = (rate(**inputs) for rate in RATES.values())
    assert (half >= most).all() and (most >= nearly_all).all()
    assert half.mean() > most.mean() > nearly_all.mean() > 0


def test_the_confidence_is_a_setting():
    inputs = drawn()
    assert torch.equal(fooling_rate_50(**inputs, confidence=0.9), fooling_rate_90(**inputs))


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ShapeError, match=r"labels should lie in \[0, 4\)"):
        fooling_rate_90(**(drawn() | {"target_labels": torch.full((300,), 4)}))
