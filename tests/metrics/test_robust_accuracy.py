import torch

from metrics.robust_accuracy import robust_accuracy
from metrics.success_rate import success_rate

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


def test_an_image_is_robust_when_right_before_and_after():
    before, after = torch.tensor([RIGHT, RIGHT, WRONG, WRONG]), torch.tensor([WRONG, RIGHT, WRONG, RIGHT])
    values = robust_accuracy(target_logits=after, clean_logits=before, labels=torch.zeros(4, dtype=torch.long))
    assert values.tolist() == [0, 1, 0, 0]


def test_is_clean_accuracy_times_what_the_attack_left():
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 300, 3, generator=generator)
    labels = torch.randint(0, 3, (300,), generator=generator)
    clean = (before.argmax(1) == labels).double().mean()
    failed = 1 - success_rate(target_logits=after, clean_logits=before, labels=labels).nanmean()
    robust = robust_accuracy(target_logits=after, clean_logits=before, labels=labels).mean()
    torch.testing.assert_close(robust, clean * failed)
