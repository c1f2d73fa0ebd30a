from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from metrics.deletion_auc import deletion_auc
from metrics.insertion_auc_zero import insertion_auc_zero


def by_definition(image, importance, label, target, steps):
    _, height, width = image.shape
    order = sorted(range(height * width), key=lambda p: (-importance.flatten()[p].item(), p))
    current, heights, done = torch.zeros_like(image), [], 0
    for step in range(steps + 1):
        while done < round(step / steps * height * width):
            row, column = divmod(order[done], width)
            current[:, row, column] = image[:, row, column]
            done += 1
        heights.append(F.softmax(target(current[None])[0].double(), dim=0)[label].item())
    return sum((a + b) / 2 for a, b in pairwise(heights)) / steps


@pytest.fixture
def world():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 6, 5, generator=generator)
    weights = torch.randn(3, images[0].numel(), generator=generator)
    maps = torch.randint(0, 9, (3, 6, 5), generator=generator).float()  # many ties
    return images, maps, torch.tensor([0, 2, 1]), lambda images: images.flatten(1) @ weights.T


def test_agrees_with_its_definition(world):
    images, maps, labels, target = world
    values = insertion_auc_zero(maps=maps, real=images, labels=labels, target=target, steps=10)
    expected = [by_definition(i, m, c, target, 10) for i, m, c in zip(images, maps, labels, strict=True)]
    assert values.tolist() == pytest.approx(expected, abs=1e-6)


def test_inserting_from_the_front_is_deleting_from_the_back():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 1, 4, 4, generator=generator)
    maps = torch.rand(4, 4, 4, generator=generator)  # no ties
    weights = torch.randn(3, 16, generator=generator)
    common = {"real": images, "labels": torch.tensor([0, 1, 2, 0]), "target": lambda x: x.flatten(1) @ weights.T}
    shown = insertion_auc_zero(maps=maps, steps=16, **common)
    hidden = deletion_auc(maps=-maps, steps=16, **common)
    torch.testing.assert_close(shown, hidden, rtol=1e-6, atol=1e-6)
