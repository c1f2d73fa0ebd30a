import torch

from bench.contract import Undefined
from metrics.success_rate import success_rate

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]
LABELS = torch.zeros(4, dtype=torch.long)


def test_counts_only_images_that_were_right_before():
    before, after = torch.tensor([RIGHT, RIGHT, WRONG, WRONG]), torch.tensor([WRONG, RIGHT, WRONG, RIGHT])
    values = success_rate(target_logits=after, clean_logits=before, labels=LABELS)
    assert values[:2].tolist() == [1, 0]
    assert values.isnan().tolist() == [False, False, True, True]


def test_no_image_right_before_is_undefined_not_zero():
    wrong = torch.tensor([WRONG] * 4)
    answer = success_rate(target_logits=wrong, clean_logits=wrong, labels=LABELS)
    assert answer == Undefined("no image was right before the attack")


def test_an_attack_that_does_nothing_never_succeeds():
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    values = success_rate(target_logits=logits, clean_logits=logits, labels=torch.arange(50) % 3)
    assert values.nanmean().item() == 0
