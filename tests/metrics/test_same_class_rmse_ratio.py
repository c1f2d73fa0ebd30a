import pytest
import torch

from bench.contract import Undefined
from metrics.same_class_rmse_ratio import same_class_rmse_ratio

BLACK, WHITE = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)


def test_real_images_are_as_diverse_as_themselves():
    real = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert same_class_rmse_ratio(generated=real, real=real).item() == 1.0


def test_half_the_distance_is_a_half():
    ours, theirs = torch.cat([BLACK, WHITE / 2]), torch.cat([BLACK, WHITE])
    assert same_class_rmse_ratio(generated=ours, real=theirs).item() == pytest.approx(0.5)


def test_equal_real_images_are_undefined_not_infinite():
    answer = same_class_rmse_ratio(generated=torch.cat([BLACK, WHITE]), real=torch.cat([BLACK, BLACK]))
    assert answer == Undefined("the real images of the class are all equal")


def test_one_image_on_either_side_is_undefined():
    answer = same_class_rmse_ratio(generated=BLACK, real=torch.cat([BLACK, WHITE]))
    assert answer == Undefined("a pair needs 2 images of the class, got 1 generated and 2 real")
