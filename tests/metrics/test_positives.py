import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.positives import positives


def test_it_counts_attacked_images():
    assert positives(attacked=torch.tensor([True, False, True, False, False])).item() == 2


@pytest.mark.parametrize("count", [0, 3])
def test_no_attacked_image_is_a_reason_and_not_zero(count: int):
    assert positives(attacked=torch.zeros(count, dtype=torch.bool)) == Undefined(f"0 of {count} images are attacked")


def test_numbers_are_refused():
    with pytest.raises(ShapeError, match="attacked should be bool"):
        positives(attacked=torch.tensor([1, 0]))
