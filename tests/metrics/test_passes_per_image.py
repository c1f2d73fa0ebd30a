import pytest

from bench.contract import Undefined
from metrics.passes_per_image import passes_per_image


def test_forward_and_backward_count_alike():
    assert passes_per_image(cost={"n_images": 4, "forward_passes": 10, "backward_passes": 8}).item() == 4.5


def test_a_method_that_never_asks_the_subject_has_none():
    assert passes_per_image(cost={"n_images": 4, "forward_passes": 0, "backward_passes": 0}).item() == 0


@pytest.mark.parametrize(
    "cost",
    [
        {"n_images": 0, "forward_passes": 10, "backward_passes": 8},
        {"n_images": 4, "forward_passes": None, "backward_passes": None},
    ],
)
def test_what_nobody_counted_is_undefined(cost):
    assert passes_per_image(cost=cost) == Undefined("the cell counted no images or no passes")
