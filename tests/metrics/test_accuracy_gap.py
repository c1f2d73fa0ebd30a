import torch

from metrics.accuracy_gap import accuracy_gap

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


def test_an_adversarial_example_is_one_and_agreement_is_zero():
    subject = torch.tensor([RIGHT, RIGHT, WRONG, WRONG])
    referee = torch.tensor([WRONG, RIGHT, WRONG, RIGHT])
    labels = torch.zeros(4, dtype=torch.long)
    assert accuracy_gap(target_logits=subject, referee_logits=referee, labels=labels).tolist() == [1, 0, 0, -1]
