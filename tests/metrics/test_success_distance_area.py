import pytest
import torch

from bench.contract import Undefined
from metrics.success_distance_area import success_distance_area

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


def area(shifts, before, after):
    """Grey 4 × 4 images in three colours, each brighter by its shift: that is its root mean square change."""
    real = torch.full((len(shifts), 3, 4, 4), 0.25)
    return success_distance_area(
        generated=real + torch.tensor(shifts)[:, None, None, None],
        real=real,
        clean_logits=torch.tensor(before),
        target_logits=torch.tensor(after),
        labels=torch.zeros(len(shifts), dtype=torch.long),
    )


def test_a_success_counts_by_how_near_it_is():
    values = area([0.0, 0.05, 0.125, 0.25, 0.5], [RIGHT] * 5, [WRONG] * 5)
    assert values.tolist() == pytest.approx([1, 0.8, 0.5, 0, 0], abs=1e-6)


def test_a_failure_counts_nothing_and_an_image_wrong_before_is_left_out():
    values = area([0.05, 0.05, 0.05], [RIGHT, RIGHT, WRONG], [RIGHT, WRONG, WRONG])
    assert values[:2].tolist() == pytest.approx([0, 0.8], abs=1e-6)
    assert values[2].isnan()


def test_the_mean_is_the_area_under_the_curve_of_success():
    generator = torch.Generator().manual_seed(0)
    shifts = (0.4 * torch.rand(30, generator=generator)).tolist()
    fooled = (torch.rand(30, generator=generator) < 0.7).tolist()
    values = area(shifts, [RIGHT] * 30, [WRONG if one else RIGHT for one in fooled])
    steps = 20_000
    heights = [
        sum(one and shift <= 0.25 * (k + 0.5) / steps for shift, one in zip(shifts, fooled, strict=True)) / 30
        for k in range(steps)
    ]
    assert values.mean().item() == pytest.approx(sum(heights) / steps, abs=1e-4)


def test_nothing_right_before_is_undefined():
    assert area([0.1], [WRONG], [WRONG]) == Undefined("no image was right before the attack")
