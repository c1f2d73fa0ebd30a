import torch

from metrics.referee_top1 import referee_top1


def test_counts_the_class_asked_for():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
    assert referee_top1(referee_logits=logits, labels=torch.tensor([0, 2, 0])).tolist() == [1, 1, 0]


def test_agrees_with_argmax():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 4, generator=generator), torch.randint(0, 4, (200,), generator=generator)
    expected = [float(max(range(4), key=row.__getitem__) == c) for row, c in zip(logits.tolist(), labels, strict=True)]
    assert referee_top1(referee_logits=logits, labels=labels).tolist() == expected
