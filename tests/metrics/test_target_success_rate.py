import torch

from bench.contract import Undefined
from metrics.success_rate import success_rate
from metrics.target_success_rate import target_success_rate

FIRST, SECOND, THIRD = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


def test_only_the_class_aimed_at_counts_among_images_that_were_right():
    values = target_success_rate(
        target_logits=torch.tensor([SECOND, THIRD, FIRST, SECOND]),
        clean_logits=torch.tensor([FIRST, FIRST, FIRST, SECOND]),
        labels=torch.zeros(4, dtype=torch.long),
        target_labels=torch.ones(4, dtype=torch.long),
    )
    assert values[:3].tolist() == [1, 0, 0]
    assert values[3].isnan()


def test_it_never_exceeds_the_untargeted_rate():
    generator = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(500, 3, generator=generator) for name in ("target_logits", "clean_logits")}
    labels = torch.randint(0, 3, (500,), generator=generator)
    reached = target_success_rate(**logits, labels=labels, target_labels=(labels + 1) % 3)
    assert 0.2 < reached.nanmean() < success_rate(**logits, labels=labels).nanmean()


def test_nothing_right_before_is_undefined():
    answer = target_success_rate(
        target_logits=torch.tensor([FIRST]),
        clean_logits=torch.tensor([SECOND]),
        labels=torch.zeros(1, dtype=torch.long),
        target_labels=torch.ones(1, dtype=torch.long),
    )
    assert answer == Undefined("no image was right before the attack")
