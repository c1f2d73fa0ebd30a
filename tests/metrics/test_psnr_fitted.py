import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from bench.contract import ShapeError, Undefined
from metrics.psnr import psnr
from metrics.psnr_fitted import psnr_fitted


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def by_polyfit(ours, theirs):
    """numpy's least-squares line through (our pixel, its pixel), clipped, and scikit-image's PSNR."""
    ours, theirs = ours.double().numpy(), theirs.double().numpy()
    gain, offset = np.polyfit(ours.ravel(), theirs.ravel(), 1)
    return peak_signal_noise_ratio(theirs, np.clip(gain * ours + offset, 0, 1), data_range=1)


@pytest.mark.parametrize("shape", [(4, 3, 9, 7), (4, 1, 5, 5)])
@pytest.mark.parametrize("likeness", [0.0, 0.7, 0.99, -0.7])  # the last is a negative picture
def test_agrees_with_numpy_and_scikit_image(shape, likeness):
    real = uniform(*shape, seed=1)
    generated = (abs(likeness) * (real if likeness >= 0 else 1 - real) + (1 - abs(likeness)) * uniform(*shape)) * 0.6
    expected = [by_polyfit(a, b) for a, b in zip(generated, real, strict=True)]
    assert psnr_fitted(generated=generated, real=real).tolist() == pytest.approx(expected, rel=1e-9)


def test_a_known_fit():
    """Ours is 0 1 0 1 and the original 0 0 0 1: the line is 0 and ½, the mean squared difference 2 · ¼ / 4."""
    ours, theirs = (torch.tensor(pixels).view(1, 1, 2, 2) for pixels in ([0.0, 1, 0, 1], [0.0, 0, 0, 1]))
    assert psnr_fitted(generated=ours, real=theirs).item() == pytest.approx(-10 * math.log10(1 / 8))


def test_clipping_brings_the_fit_nearer():
    """Ours is 0 1 2 7 (eighths), the original 0 0 0 1: the line starts below 0, and clipping there takes error away."""
    ours, theirs = (torch.tensor(pixels).view(1, 1, 2, 2) for pixels in ([0.0, 0.125, 0.25, 0.875], [0.0, 0, 0, 1]))
    gain = (0.875 - 5 / 16) / sum((x - 5 / 16) ** 2 for x in (0, 0.125, 0.25, 0.875))
    line = [gain * (x - 5 / 16) + 0.25 for x in (0, 0.125, 0.25, 0.875)]
    assert line[0] < 0
    error = sum((min(max(y, 0), 1) - t) ** 2 for y, t in zip(line, (0, 0, 0, 1), strict=True)) / 4
    assert psnr_fitted(generated=ours, real=theirs).item() == pytest.approx(-10 * math.log10(error))


def test_gain_and_offset_do_not_count():
    real, generated = uniform(3, 3, 6, 6, seed=1), uniform(3, 3, 6, 6)
    once = psnr_fitted(generated=generated, real=real)
    again = psnr_fitted(generated=0.3 * generated + 0.2, real=real)
    assert again.tolist() == pytest.approx(once.tolist(), rel=1e-5)


def test_one_gain_serves_all_channels():
    """A channel that is twice as strong cannot be put right without spoiling the other."""
    real = uniform(1, 2, 8, 8)
    generated = real * torch.tensor([0.5, 1.0]).view(1, 2, 1, 1)
    assert psnr_fitted(generated=generated, real=real).item() < 40


def test_it_is_never_below_the_raw_value():
    real, generated = uniform(20, 3, 6, 6, seed=1), uniform(20, 3, 6, 6)
    assert (psnr_fitted(generated=generated, real=real) >= psnr(generated=generated, real=real)).all()


@pytest.mark.parametrize("grey", [0.0, 0.1, 1.0])  # 0.1 has a mean that is rounded
def test_an_image_without_contrast_counts_as_the_originals_mean(grey):
    real = uniform(2, 3, 6, 6)
    expected = [-10 * math.log10(image.double().var(correction=0).item()) for image in real]
    assert psnr_fitted(generated=torch.full_like(real, grey), real=real).tolist() == pytest.approx(expected)


def test_an_image_equal_but_for_gain_and_offset_has_no_value():
    real = uniform(2, 1, 6, 6)
    generated = torch.cat([0.2 * real[:1] + 0.3, uniform(1, 1, 6, 6, seed=1)])
    values = psnr_fitted(generated=generated, real=real).tolist()
    assert math.isnan(values[0]) and 0 < values[1] < 40


def test_only_such_images_are_undefined():
    real = uniform(2, 1, 6, 6)
    reason = "every image equals its original but for gain and offset: no finite PSNR"
    assert psnr_fitted(generated=1 - real, real=real) == Undefined(reason)


def test_unequal_shapes_are_refused():
    with pytest.raises(ShapeError, match="real should be"):
        psnr_fitted(generated=torch.zeros(1, 3, 4, 4), real=torch.zeros(1, 1, 4, 4))
