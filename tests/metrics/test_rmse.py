import pytest
import torch

from metrics.rmse import rmse


def test_black_and_white_are_one_apart():
    black = torch.zeros(2, 3, 4, 4)
    assert rmse(generated=black + 1, real=black).tolist() == [1, 1]


def test_equal_images_are_zero_apart():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert rmse(generated=images, real=images).tolist() == [0, 0]


def test_agrees_with_its_definition():
    ours, theirs = torch.rand(2, 3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = [
        (sum((p - q) ** 2 for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 18) ** 0.5
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert rmse(generated=ours, real=theirs).tolist() == pytest.approx(expected, rel=1e-12)
