import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.same_class_ssim_ratio import same_class_ssim_ratio

BLACK, WHITE, GREY = torch.zeros(1, 1, 11, 11), torch.ones(1, 1, 11, 11), torch.full((1, 1, 11, 11), 0.5)


def test_real_images_are_as_diverse_as_themselves():
    real = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert same_class_ssim_ratio(generated=real, real=real).item() == 1.0


def test_flat_images_have_the_ratio_of_their_luminance_terms():
    # 1 − (2 · x · y + C1) / (x² + y² + C1) for grey and white, over the same for black and white
    expected = (1 - (1 + 1e-4) / (1.25 + 1e-4)) / (1 - 1e-4 / (1 + 1e-4))
    answer = same_class_ssim_ratio(generated=torch.cat([GREY, WHITE]), real=torch.cat([BLACK, WHITE]))
    assert answer.item() == pytest.approx(expected, rel=1e-9)


def test_copies_of_one_image_are_zero():
    answer = same_class_ssim_ratio(generated=torch.cat([GREY] * 5), real=torch.cat([BLACK, WHITE]))
    assert answer.item() == pytest.approx(0, abs=1e-12)


def test_equal_real_images_are_undefined_not_infinite():
    real = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)).expand(3, 1, 12, 12)
    answer = same_class_ssim_ratio(generated=torch.rand(2, 1, 12, 12), real=real)
    assert answer == Undefined("the real images of the class are all equal")


def test_one_image_on_either_side_is_undefined():
    answer = same_class_ssim_ratio(generated=BLACK, real=torch.cat([BLACK, WHITE]))
    assert answer == Undefined("a pair needs 2 images of the class, got 1 generated and 2 real")


def test_images_of_unequal_sizes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        same_class_ssim_ratio(generated=torch.zeros(2, 1, 11, 11), real=torch.zeros(2, 1, 12, 12))
