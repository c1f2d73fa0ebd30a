import numpy as np
import pytest
import torch
from scipy import linalg

from bench.contract import Undefined
from metrics.frechet_target_penultimate import frechet_target_penultimate


def drawn(count, seed, features=6):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def test_agrees_with_a_matrix_square_root():
    generated, real = drawn(40, 0) * 2 + 1, drawn(30, 1)
    mine, theirs = generated.double().numpy(), real.double().numpy()
    covariances = np.cov(mine, rowvar=False), np.cov(theirs, rowvar=False)
    common = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((mine.mean(0) - theirs.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * common)
    value = frechet_target_penultimate(target_features=generated, real_target_features=real).item()
    assert value == pytest.approx(expected, rel=1e-8)


def test_a_shift_alone_counts_by_its_square():
    features = drawn(20, 0)
    value = frechet_target_penultimate(target_features=features + 0.5, real_target_features=features).item()
    assert value == pytest.approx(6 * 0.25, rel=1e-5)


def test_one_image_is_undefined_not_zero():
    answer = frechet_target_penultimate(target_features=drawn(1, 0), real_target_features=drawn(5, 1))
    assert answer == Undefined("a covariance needs 2 images, got 1 generated and 5 real")
