import torch

from bench.contract import Undefined
from metrics.perturbation_seen_as_target import perturbation_seen_as_target

FIRST, SECOND, THIRD = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


def seen(alone, targets, *, changed, clean):
    real = torch.full((len(targets), 1, 2, 2), 0.5)
    generated = real.clone()
    generated[changed, 0, 1, 0] += 0.25  # one pixel is enough
    return perturbation_seen_as_target(
        perturbation_referee_logits=torch.tensor(alone),
        target_labels=torch.tensor(targets),
        generated=generated,
        real=real,
        clean_logits=torch.tensor(clean),
        labels=torch.zeros(len(targets), dtype=torch.long),
    )


def test_counts_perturbations_that_the_referee_gives_the_target():
    values = seen([SECOND, THIRD, THIRD], [1, 1, 2], changed=[0, 1, 2], clean=[FIRST] * 3)
    assert values.tolist() == [1, 0, 1]


def test_images_that_were_wrong_or_not_changed_have_no_value():
    values = seen([SECOND] * 3, [1, 1, 1], changed=[0, 2], clean=[FIRST, FIRST, SECOND])
    assert values.isnan().tolist() == [False, True, True]


def test_nothing_right_before_is_undefined():
    answer = seen([SECOND], [1], changed=[0], clean=[SECOND])
    assert answer == Undefined("no image was right before the attack")
