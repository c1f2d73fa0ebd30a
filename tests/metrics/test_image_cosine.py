import math

import numpy as np
import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.image_cosine import image_cosine
from metrics.psnr_fitted import psnr_fitted


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_agrees_with_numpys_correlation():
    real, generated = uniform(5, 3, 6, 7, seed=1), uniform(5, 3, 6, 7) ** 2
    generated[:3] = 0.5 * generated[:3] + 0.5 * real[:3]
    expected = [np.corrcoef(a.numpy().ravel(), b.numpy().ravel())[0, 1] for a, b in zip(generated, real, strict=True)]
    assert image_cosine(generated=generated, real=real).tolist() == pytest.approx(expected, abs=1e-6)


def test_known_angles():
    """Less their means, 0 1 0 1 and 0 0 1 1 are at right angles, and 0 0 0 1 has 1 / √3 with each."""
    other, up, one = (torch.tensor(p).view(1, 1, 2, 2) for p in ([0.0, 1, 0, 1], [0.0, 0, 1, 1], [0.0, 0, 0, 1]))
    assert image_cosine(generated=other, real=up).item() == pytest.approx(0)
    assert image_cosine(generated=one, real=up).item() == pytest.approx(1 / math.sqrt(3))


def test_gain_and_offset_do_not_count_but_the_sign_does():
    real = uniform(3, 3, 6, 6)
    assert image_cosine(generated=0.01 * real + 0.9, real=real).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert image_cosine(generated=1 - real, real=real).tolist() == pytest.approx([-1, -1, -1], abs=1e-6)


def test_its_square_is_the_share_of_variance_that_the_best_gain_and_offset_explain():
    """For a fit that nothing is clipped from: mean squared difference = variance · (1 − cosine²)."""
    real = 0.4 + 0.2 * uniform(4, 3, 6, 6, seed=1)
    generated = 0.5 * real + 0.1 * uniform(4, 3, 6, 6)
    left = 10 ** (-psnr_fitted(generated=generated, real=real) / 10)
    variance = real.double().flatten(1).var(1, correction=0)
    explained = 1 - left / variance
    assert image_cosine(generated=generated, real=real).square().tolist() == pytest.approx(explained.tolist(), rel=1e-6)


@pytest.mark.parametrize("grey", [0.0, 0.1, 1.0])  # 0.1 has a mean that is rounded
def test_an_image_without_contrast_explains_nothing(grey):
    real = uniform(2, 3, 6, 6)
    assert image_cosine(generated=torch.full_like(real, grey), real=real).tolist() == [0, 0]


def test_one_step_of_float32_in_one_pixel_is_contrast():
    real = torch.zeros(1, 1, 2, 2)
    real[0, 0, 1, 1] = 1.0
    generated = torch.full((1, 1, 2, 2), 1e-20)
    generated[0, 0, 1, 1] = 1.1e-20
    assert image_cosine(generated=generated, real=real).item() == pytest.approx(1)


def test_an_original_without_contrast_has_no_direction():
    real = uniform(2, 1, 4, 4)
    real[0] = 0.1
    values = image_cosine(generated=uniform(2, 1, 4, 4, seed=1), real=real).tolist()
    assert math.isnan(values[0]) and not math.isnan(values[1])
    assert image_cosine(generated=real, real=torch.zeros_like(real)) == Undefined("no original has any contrast")


def test_unequal_shapes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        image_cosine(generated=torch.zeros(1, 3, 4, 4), real=torch.zeros(1, 1, 4, 4))
