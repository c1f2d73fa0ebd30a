import torch

from bench.contract import Undefined
from metrics.l0_size import l0_size

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


def test_a_pixel_counts_once_whatever_its_channels():
    real = torch.full((3, 3, 4, 5), 0.5)
    generated = real.clone()
    generated[0, 1, 2, 3] = 0.6  # one channel of one pixel
    generated[1, :, 0, 0] = 0.0  # all channels of one pixel …
    generated[1, 2, 3, 3] += 1e-6  # … and a little of another
    values = l0_size(
        generated=generated, real=real, clean_logits=torch.tensor([RIGHT] * 3), labels=torch.zeros(3, dtype=torch.long)
    )
    assert values.tolist() == [1 / 20, 2 / 20, 0.0]


def test_images_that_were_wrong_before_do_not_count():
    real = torch.zeros(2, 1, 2, 2)
    values = l0_size(
        generated=torch.ones_like(real),
        real=real,
        clean_logits=torch.tensor([RIGHT, WRONG]),
        labels=torch.zeros(2, dtype=torch.long),
    )
    assert values[0] == 1 and values[1].isnan()


def test_nothing_right_before_is_undefined():
    real = torch.zeros(1, 1, 2, 2)
    answer = l0_size(
        generated=real, real=real, clean_logits=torch.tensor([WRONG]), labels=torch.zeros(1, dtype=torch.long)
    )
    assert answer == Undefined("no image was right before the attack")
