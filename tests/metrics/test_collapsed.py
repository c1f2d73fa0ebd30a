import math
from itertools import combinations

import numpy as np
import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.collapsed import collapsed


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def rmse(images):
    pairs = list(combinations(images.double().numpy().reshape(len(images), -1), 2))
    return sum(math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / len(a)) for a, b in pairs) / len(pairs)


def vendi(features):
    rows = [row / np.sqrt((row**2).sum()) for row in features.double().numpy()]
    kernel = np.array([[(a * b).sum() for b in rows] for a in rows]) / len(rows)
    return math.exp(-sum(share * math.log(share) for share in np.linalg.eigvals(kernel).real if share > 1e-12))


def by_definition(generated, real, made, known):
    little_spread = rmse(generated) / rmse(real) < 0.05
    few = min(len(made), len(known))
    return float(little_spread or (vendi(made[:few]) - 1) / (vendi(known[:few]) - 1) < 0.1)


REAL, KNOWN = drawn(8, 1, 5, 5), torch.randn(8, 6, generator=torch.Generator().manual_seed(4))


def answer(generated, made, real=REAL, known=KNOWN):
    return collapsed(generated=generated, real=real, referee_features=made, real_referee_features=known)


def around(middle, size, noise):
    return middle + size * noise


@pytest.mark.parametrize("count", [6, 8, 11])
@pytest.mark.parametrize("pixels", [0.01, 0.04, 0.06, 0.5])
@pytest.mark.parametrize("features", [0.01, 0.2, 0.6, 3.0])
def test_agrees_with_its_definition(count, pixels, features):
    generated = around(0.5 * torch.ones(count, 1, 5, 5), pixels, drawn(count, 1, 5, 5, seed=2) - 0.5)
    made = around(torch.ones(count, 6), features, drawn(count, 6, seed=3) - 0.5)
    assert answer(generated, made).item() == by_definition(generated, REAL, made, KNOWN)


def test_both_limits_decide_alone():
    same, all_over = 0.5 * torch.ones(8, 1, 5, 5), REAL.flip(0)
    one_way, all_ways = torch.ones(8, 6), KNOWN.flip(0)
    found = [answer(images, made).item() for images in (same, all_over) for made in (one_way, all_ways)]
    assert found == [1, 1, 1, 0]


def test_the_limit_in_pixels_is_a_twentieth_of_real_images():
    found = [answer(0.5 + share * (REAL - 0.5), KNOWN).item() for share in (0.049, 0.051)]
    assert found == [1, 0]


def test_equal_images_have_collapsed_whatever_the_referee_sees():
    assert answer(torch.zeros(3, 1, 5, 5), torch.zeros(3, 6)).item() == 1


@pytest.mark.parametrize(
    ("generated", "made", "real", "known", "reason"),
    [
        (REAL[:1], KNOWN[:1], REAL, KNOWN, "a pair needs 2 images of the class, got 1 generated and 8 real"),
        (REAL, KNOWN, REAL[:1], KNOWN[:1], "a pair needs 2 images of the class, got 8 generated and 1 real"),
        (REAL, KNOWN, REAL[:1].repeat(8, 1, 1, 1), KNOWN, "the real images of the class are all equal"),
        (REAL, 0 * KNOWN, REAL, KNOWN, "8 of 8 images have all-zero features, which have no direction"),
        (REAL, KNOWN, REAL, 0 * KNOWN, "real images: 8 of 8 images have all-zero features, which have no direction"),
        (
            REAL,
            KNOWN,
            REAL,
            torch.ones(8, 6),
            "the real images all have one direction: there is no diversity to compare with",
        ),
    ],
)
def test_it_is_undefined_for_a_reason(generated, made, real, known, reason):
    assert answer(generated, made, real, known) == Undefined(reason)


def test_features_of_other_images_are_refused():
    with pytest.raises(ShapeError, match="referee_features should be"):
        answer(REAL, KNOWN[:5])
    with pytest.raises(ShapeError, match="real_referee_features should be"):
        answer(REAL, KNOWN, REAL, KNOWN[:5])
