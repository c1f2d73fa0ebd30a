import torch

from bench.contract import Undefined
from metrics.transfer_rate import transfer_rate

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


def test_counts_only_originals_that_both_had_right():
    values = transfer_rate(
        referee_logits=torch.tensor([WRONG, RIGHT, WRONG, WRONG]),
        clean_referee_logits=torch.tensor([RIGHT, RIGHT, WRONG, RIGHT]),
        clean_logits=torch.tensor([RIGHT, RIGHT, RIGHT, WRONG]),
        labels=torch.zeros(4, dtype=torch.long),
    )
    assert values[:2].tolist() == [1, 0]
    assert values.isnan().tolist() == [False, False, True, True]


def test_nothing_that_both_had_right_is_undefined():
    answer = transfer_rate(
        referee_logits=torch.tensor([RIGHT]),
        clean_referee_logits=torch.tensor([WRONG]),
        clean_logits=torch.tensor([RIGHT]),
        labels=torch.zeros(1, dtype=torch.long),
    )
    assert answer == Undefined("no original was right for both the subject and the referee")
