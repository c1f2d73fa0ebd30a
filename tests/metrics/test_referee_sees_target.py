import torch

from bench.contract import Undefined
from metrics.referee_sees_target import referee_sees_target

FIRST, SECOND, THIRD = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


def sees(after, referee_before, subject_before, targets):
    return referee_sees_target(
        referee_logits=torch.tensor(after),
        clean_referee_logits=torch.tensor(referee_before),
        clean_logits=torch.tensor(subject_before),
        labels=torch.zeros(len(targets), dtype=torch.long),
        target_labels=torch.tensor(targets),
    )


def test_another_wrong_class_is_not_the_target():
    assert sees([SECOND, THIRD, FIRST], [FIRST] * 3, [FIRST] * 3, [1, 1, 1]).tolist() == [1, 0, 0]


def test_counts_only_originals_that_both_had_right():
    values = sees([SECOND] * 3, [FIRST, SECOND, FIRST], [FIRST, FIRST, THIRD], [1, 1, 1])
    assert values.isnan().tolist() == [False, True, True]


def test_nothing_that_both_had_right_is_undefined():
    answer = sees([SECOND], [SECOND], [FIRST], [1])
    assert answer == Undefined("no original was right for both the subject and the referee")
