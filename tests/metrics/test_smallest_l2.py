import pytest
import torch

from bench.contract import Undefined
from metrics.smallest_l2 import smallest_l2

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]
LABELS = torch.zeros(6, dtype=torch.long)
REAL = torch.zeros(6, 1, 2, 2)
MOVED = REAL.clone()
MOVED[:, 0, 0, 0] = torch.tensor([0.1, 0.2, 0.4, 0.8, 0.9, 1.0])


def lengths(before, after):
    return smallest_l2(
        generated=MOVED,
        real=REAL,
        clean_logits=torch.tensor(before),
        target_logits=torch.tensor(after),
        labels=LABELS,
    )


def test_the_median_is_over_successes_among_images_right_before():
    before = [RIGHT, RIGHT, RIGHT, RIGHT, WRONG, RIGHT]
    after = [RIGHT, WRONG, WRONG, WRONG, WRONG, RIGHT]  # 0.2, 0.4 and 0.8 count
    assert lengths(before, after).item() == pytest.approx(0.4, abs=1e-7)


def test_of_an_even_number_the_middle_two_are_averaged():
    before = [RIGHT] * 6
    after = [WRONG, RIGHT, RIGHT, WRONG, RIGHT, RIGHT]
    assert lengths(before, after).item() == pytest.approx((0.1 + 0.8) / 2, abs=1e-7)


def test_the_length_is_over_all_pixels_and_channels():
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.rand(1, 3, 5, 5, generator=generator) for _ in range(2))
    by_hand = sum((a - b) ** 2 for a, b in zip(real.flatten().tolist(), generated.flatten().tolist(), strict=True))
    value = smallest_l2(
        generated=generated,
        real=real,
        clean_logits=torch.tensor([RIGHT]),
        target_logits=torch.tensor([WRONG]),
        labels=LABELS[:1],
    )
    assert value.item() == pytest.approx(by_hand**0.5, rel=1e-9)


def test_without_a_success_there_is_no_length():
    assert isinstance(lengths([RIGHT] * 6, [RIGHT] * 6), Undefined)
    assert isinstance(lengths([WRONG] * 6, [WRONG] * 6), Undefined)
