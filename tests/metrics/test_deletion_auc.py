from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from bench.contract import ShapeError
from metrics._attribution import SWAP_BATCH
from metrics.deletion_auc import deletion_auc


def by_definition(image, importance, label, target, steps):
    """One image at a time, one pixel at a time."""
    _, height, width = image.shape
    order = sorted(range(height * width), key=lambda p: (-importance.flatten()[p].item(), p))
    current, heights, done = image.clone(), [], 0
    for step in range(steps + 1):
        while done < round(step / steps * height * width):
            row, column = divmod(order[done], width)
            current[:, row, column] = 0
            done += 1
        heights.append(F.softmax(target(current[None])[0].double(), dim=0)[label].item())
    return sum((a + b) / 2 for a, b in pairwise(heights)) / steps


def linear(classes, shape):
    weights = torch.randn(classes, shape.numel(), generator=torch.Generator().manual_seed(1))
    return lambda images: images.flatten(1) @ weights.T


@pytest.mark.parametrize("steps", [4, 28])
def test_agrees_with_its_definition(steps):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 6, 5, generator=generator)
    maps = torch.randint(0, 9, (3, 6, 5), generator=generator).float()  # many ties
    labels, target = torch.tensor([0, 2, 1]), linear(3, images[0].shape)
    values = deletion_auc(maps=maps, real=images, labels=labels, target=target, steps=steps)
    expected = [by_definition(i, m, c, target, steps) for i, m, c in zip(images, maps, labels, strict=True)]
    assert values.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_probability_that_falls_with_the_white_area_has_its_closed_form():
    images = torch.ones(1, 1, 4, 7)

    def target(images):
        share = images.mean((1, 2, 3)).double().clamp(1e-9, 1 - 1e-9)
        return torch.stack([share.log(), (1 - share).log()], dim=1)  # the softmax is (share, 1 − share)

    values = deletion_auc(maps=torch.rand(1, 4, 7), real=images, labels=torch.tensor([0]), target=target, steps=28)
    assert values.item() == pytest.approx(0.5, abs=1e-7)


def test_no_forward_pass_is_larger_than_the_batch():
    sizes = []

    def target(images):
        sizes.append(len(images))
        return images.flatten(1)[:, :2]

    count = SWAP_BATCH + 5
    images, labels = torch.zeros(count, 1, 2, 2), torch.zeros(count, dtype=torch.long)
    deletion_auc(maps=images[:, 0], real=images, labels=labels, target=target, steps=2)
    assert sizes == [SWAP_BATCH, 5] * 3


def test_maps_of_another_size_are_refused():
    with pytest.raises(ShapeError, match="maps should be"):
        deletion_auc(
            maps=torch.zeros(1, 3, 4),
            real=torch.zeros(1, 1, 4, 4),
            labels=torch.tensor([0]),
            target=lambda x: x[:, 0, 0],
        )
