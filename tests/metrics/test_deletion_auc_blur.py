from itertools import pairwise

import pytest
import torch
from scipy.ndimage import correlate1d
from torch.nn import functional as F

from bench.contract import Undefined
from metrics.deletion_auc_blur import deletion_auc_blur


def gaussian(image):
    """11 taps, standard deviation 5, mirrored without repeating the edge, in SciPy."""
    taps = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / 50)
    taps = (taps / taps.sum()).numpy()
    rows = correlate1d(image.double().numpy(), taps, axis=-1, mode="mirror")
    return torch.from_numpy(correlate1d(rows, taps, axis=-2, mode="mirror")).float()


def by_definition(image, importance, label, target, steps):
    _, height, width = image.shape
    order = sorted(range(height * width), key=lambda p: (-importance.flatten()[p].item(), p))
    current, soft, heights, done = image.clone(), gaussian(image), [], 0
    for step in range(steps + 1):
        while done < round(step / steps * height * width):
            row, column = divmod(order[done], width)
            current[:, row, column] = soft[:, row, column]
            done += 1
        heights.append(F.softmax(target(current[None])[0].double(), dim=0)[label].item())
    return sum((a + b) / 2 for a, b in pairwise(heights)) / steps


def test_agrees_with_its_definition():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 9, 7, generator=generator)
    maps = torch.randint(0, 20, (3, 9, 7), generator=generator).float()  # with ties
    weights = torch.randn(3, images[0].numel(), generator=generator)
    labels = torch.tensor([0, 2, 1])

    def target(images):
        return images.flatten(1) @ weights.T

    values = deletion_auc_blur(maps=maps, real=images, labels=labels, target=target, steps=9)
    expected = [by_definition(i, m, c, target, 9) for i, m, c in zip(images, maps, labels, strict=True)]
    assert values.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_flat_image_has_nothing_to_blur_away():
    images, labels = torch.full((2, 1, 8, 8), 0.3), torch.tensor([0, 1])

    def target(images):
        share = images.mean((1, 2, 3)).double()
        return torch.stack([share.log(), (1 - share).log()], dim=1)

    values = deletion_auc_blur(maps=torch.rand(2, 8, 8), real=images, labels=labels, target=target)
    assert values.tolist() == pytest.approx([0.3, 0.7], abs=1e-6)


def test_images_too_small_for_the_blur_are_undefined():
    answer = deletion_auc_blur(
        maps=torch.rand(1, 5, 8), real=torch.rand(1, 1, 5, 8), labels=torch.tensor([0]), target=lambda x: x[:, 0, 0]
    )
    assert answer == Undefined("a blur of 11 px needs more than 5 px, the images have 5×8")
