import math

import pytest
import torch

from bench.contract import Undefined
from metrics.vendi_referee_cosine import vendi_referee_cosine


def by_definition(features):
    """exp of the entropy of the eigenvalues of the full n × n kernel matrix."""
    kernel = torch.nn.functional.cosine_similarity(features[:, None].double(), features[None].double(), dim=2)
    values = torch.linalg.eigvals(kernel / len(features)).real.tolist()
    return math.exp(-sum(v * math.log(v) for v in values if v > 1e-12))


def test_a_pair_of_near_neighbours_and_a_stranger_has_its_known_value():
    # the rows' cosines are [[1, .9, 0], [.9, 1, 0], [0, 0, 1]]
    rows = torch.tensor([[1, 0, 0], [0.9, math.sqrt(0.19), 0], [0, 0, 1]], dtype=torch.float64)
    assert vendi_referee_cosine(referee_features=rows).item() == pytest.approx(2.1573004833739833, rel=1e-12)


def test_identical_images_are_one():
    assert vendi_referee_cosine(referee_features=torch.tensor([[3.0, 4.0]]).expand(7, 2)).item() == pytest.approx(1)


def test_orthogonal_images_are_n():
    assert vendi_referee_cosine(referee_features=5 * torch.eye(6)).item() == pytest.approx(6)


def test_length_does_not_count():
    rows = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    scaled = rows * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])[:, None]
    assert vendi_referee_cosine(referee_features=scaled).item() == pytest.approx(
        vendi_referee_cosine(referee_features=rows).item(), rel=1e-6
    )


@pytest.mark.parametrize("length", [1e-200, 1e-30, 1e200])
def test_no_length_is_too_small_or_too_large(length):
    rows = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    expected = vendi_referee_cosine(referee_features=rows).item()
    assert vendi_referee_cosine(referee_features=length * rows).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5)])
def test_agrees_with_its_definition_for_few_and_many_images(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert vendi_referee_cosine(referee_features=rows).item() == pytest.approx(by_definition(rows), rel=1e-9)


def test_features_of_zero_are_undefined():
    answer = vendi_referee_cosine(referee_features=torch.eye(3)[[0, 1, 2, 2]] * torch.tensor([1.0, 1, 1, 0])[:, None])
    assert answer == Undefined("1 of 4 images have all-zero features, which have no direction")


def test_no_images_are_undefined():
    assert vendi_referee_cosine(referee_features=torch.zeros(0, 3)) == Undefined("the class has no images")
