import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.same_class_rmse import same_class_rmse

BLACK, WHITE = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)


def by_definition(images):
    """The docstring's formula as plain loops, sharing no code with the metric."""
    pairs = [(a, b) for i, a in enumerate(images) for b in images[i + 1 :]]
    return sum(((a - b).double() ** 2).mean().sqrt() for a, b in pairs) / len(pairs)


def test_black_and_white_are_one_apart():
    assert same_class_rmse(generated=torch.cat([BLACK, WHITE])).item() == 1.0


def test_equal_images_are_zero_apart():
    assert same_class_rmse(generated=WHITE.expand(3, 3, 4, 4)).item() == 0.0


def test_agrees_with_its_definition():
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert same_class_rmse(generated=images).item() == pytest.approx(by_definition(images).item(), rel=1e-10)


def test_one_image_is_undefined_not_zero():
    assert same_class_rmse(generated=BLACK) == Undefined("a pair needs 2 images of the class, got 1")


def test_images_outside_the_intensities_are_refused():
    with pytest.raises(ShapeError, match=r"generated should be intensities in \[0, 1\], got \[-1, 1\]"):
        same_class_rmse(generated=torch.cat([BLACK - 1, WHITE]))
