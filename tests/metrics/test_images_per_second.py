import pytest

from bench.contract import Undefined
from metrics.images_per_second import images_per_second


def test_images_over_seconds():
    assert images_per_second(cost={"n_images": 30, "wall_s": 4.0}).item() == 7.5


@pytest.mark.parametrize("cost", [{"n_images": 0, "wall_s": 4.0}, {"n_images": 3, "wall_s": None}])
def test_without_images_or_seconds_there_is_no_speed(cost):
    assert isinstance(images_per_second(cost=cost), Undefined)
