from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from bench.contract import Undefined
from metrics.insertion_auc import insertion_auc


def by_definition(image, importance, label, target, steps):
    """One image at a time, one pixel at a time; the blur as an explicit weighted sum over a mirrored border."""
    offsets = torch.arange(-5.0, 6.0)
    weights = torch.exp(-(offsets**2) / 50)
    window = torch.outer(weights, weights) / weights.sum() ** 2
    _, height, width = image.shape
    mirrored = F.pad(image[None], (5, 5, 5, 5), mode="reflect")[0]
    current = torch.stack(
        [
            torch.stack([(mirrored[:, r : r + 11, c : c + 11] * window).sum((1, 2)) for c in range(width)], dim=1)
            for r in range(height)
        ],
        dim=1,
    )
    order = sorted(range(height * width), key=lambda p: (-importance.flatten()[p].item(), p))
    heights, done = [], 0
    for step in range(steps + 1):
        while done < round(step / steps * height * width):
            row, column = divmod(order[done], width)
            current[:, row, column] = image[:, row, column]
            done += 1
        heights.append(F.softmax(target(current[None])[0].double(), dim=0)[label].item())
    return sum((a + b) / 2 for a, b in pairwise(heights)) / steps


def linear(classes, shape):
    weights = torch.randn(classes, shape.numel(), generator=torch.Generator().manual_seed(1))
    return lambda images: images.flatten(1) @ weights.T


@pytest.mark.parametrize("steps", [4, 28])
def test_agrees_with_its_definition(steps):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 8, 7, generator=generator)
    maps = torch.randint(0, 9, (3, 8, 7), generator=generator).float()  # many ties
    labels, target = torch.tensor([0, 2, 1]), linear(3, images[0].shape)
    values = insertion_auc(maps=maps, real=images, labels=labels, target=target, steps=steps)
    expected = [by_definition(i, m, c, target, steps) for i, m, c in zip(images, maps, labels, strict=True)]
    assert values.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_target_that_looks_at_nothing_gives_its_constant_probability():
    images, labels = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    values = insertion_auc(maps=images[:, 0], real=images, labels=labels, target=lambda x: torch.zeros(len(x), 4))
    assert values.tolist() == pytest.approx([0.25, 0.25])


def test_the_pixel_that_matters_first_beats_the_pixel_that_matters_last():
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 3] = 1.0  # the target looks at this pixel alone

    def target(images):
        seen = 20 * images[:, 0, 3, 3] - 10
        return torch.stack([seen, -seen], dim=1)

    first, last = (
        insertion_auc(maps=maps, real=image, labels=torch.tensor([0]), target=target).item()
        for maps in (image[:, 0], -image[:, 0])
    )
    assert first > 0.97
    assert last < 0.03


def test_images_below_the_blur_are_undefined():
    answer = insertion_auc(
        maps=torch.zeros(1, 5, 5), real=torch.zeros(1, 1, 5, 5), labels=torch.tensor([0]), target=lambda x: x[:, 0, 0]
    )
    assert answer == Undefined("a blur of 11 px needs more than 5 px, the images have 5×5")
