import math

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.vendi_ratio import vendi_ratio


def axes(*places):
    """Unit vectors along these of four axes."""
    return torch.eye(4)[list(places)]


def score(*shares):
    """Vendi score of orthogonal groups of equal images, whose kernel's eigenvalues are their shares."""
    return math.exp(-sum(share * math.log(share) for share in shares))


def ratio(generated, real):
    return vendi_ratio(referee_features=generated, real_referee_features=real)


def test_one_image_repeated_has_none_of_the_diversity():
    assert ratio(axes(0, 0, 0, 0), axes(0, 1, 2, 3)).item() == pytest.approx(0, abs=1e-12)


def test_real_images_have_all_of_it():
    assert ratio(axes(0, 1, 2, 3), axes(0, 1, 2, 3)).item() == pytest.approx(1)


def test_two_of_four_directions_have_a_third_of_it():
    assert ratio(axes(0, 0, 1, 1), axes(0, 1, 2, 3)).item() == pytest.approx((2 - 1) / (4 - 1))


def test_uneven_groups_count_by_their_entropy():
    expected = (score(3 / 4, 1 / 4) - 1) / (score(1 / 2, 1 / 4, 1 / 4) - 1)
    assert ratio(axes(0, 0, 0, 1), axes(0, 0, 1, 2)).item() == pytest.approx(expected)


def test_more_diversity_than_real_images_is_more_than_one():
    assert ratio(axes(0, 1, 2, 3), axes(0, 0, 1, 1)).item() == pytest.approx(3)


def test_only_as_many_images_as_both_sides_have_are_compared():
    assert ratio(axes(0, 0, 1, 2, 3), axes(0, 1)).item() == pytest.approx(0, abs=1e-12)
    assert ratio(axes(0, 1), axes(0, 1, 2, 3)).item() == pytest.approx(1)


def test_images_replaced_by_copies_lower_it():
    images = torch.randn(60, 20, generator=torch.Generator().manual_seed(0))
    found = [ratio(images[:kept].repeat(60 // kept, 1), images).item() for kept in (60, 30, 10, 2, 1)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1)
    assert found[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("generated", "real", "reason"),
    [
        (axes(0), axes(0, 1), "diversity needs 2 images, got 1 generated and 2 real"),
        (axes(0, 1), axes(), "diversity needs 2 images, got 2 generated and 0 real"),
        (axes(0, 1), 3 * axes(2, 2), "the real images all have one direction: there is no diversity to compare with"),
        (axes(0, 1) * 0, axes(0, 1), "2 of 2 images have all-zero features, which have no direction"),
        (axes(0, 1), axes(0, 1) * 0, "real images: 2 of 2 images have all-zero features, which have no direction"),
    ],
)
def test_it_is_undefined_for_a_reason(generated, real, reason):
    assert ratio(generated, real) == Undefined(reason)


def test_another_number_of_features_is_refused():
    with pytest.raises(ShapeError, match="with D = 4 as in referee_features"):
        ratio(axes(0, 1), torch.ones(2, 3))
