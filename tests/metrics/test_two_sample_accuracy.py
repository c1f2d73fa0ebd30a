import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from bench.contract import ShapeError, Undefined
from metrics.two_sample_accuracy import two_sample_accuracy


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def accuracy(generated, real):
    return two_sample_accuracy(referee_features=generated, real_referee_features=real)


def by_library(generated, real):
    """Nearest neighbour of each of all images, itself left out, by scikit-learn; for sets without ties."""
    both = torch.cat([generated, real]).double().numpy()
    sides = torch.arange(len(both)) < len(generated)
    nearest = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(both).kneighbors(both)[1][:, 1]
    return (sides == sides[torch.from_numpy(nearest)]).double().mean().item()


@pytest.mark.parametrize(("count", "dimensions", "shift"), [(40, 3, 0.0), (40, 3, 0.7), (25, 50, 0.3), (2, 4, 0.0)])
def test_agrees_with_a_nearest_neighbour_library(count, dimensions, shift):
    generated, real = normal(0, count, dimensions) + shift, normal(1, count, dimensions)
    assert accuracy(generated, real).item() == pytest.approx(by_library(generated, real), abs=1e-12)


def test_one_distribution_is_a_half():
    assert accuracy(normal(0, 1000, 2), normal(1, 1000, 2)).item() == pytest.approx(0.5, abs=0.05)


def test_separate_islands_are_one():
    assert accuracy(normal(0, 30, 2) + 100, normal(1, 30, 2)).item() == 1


def test_copies_of_the_real_images_are_zero():
    real = normal(0, 30, 2)
    assert accuracy(real.clone(), real).item() == 0


def test_images_that_are_all_alike_are_a_half():
    assert accuracy(torch.ones(5, 2), torch.ones(5, 2)).item() == 0.5


def test_a_tie_counts_half():
    generated, real = torch.tensor([[0.0], [1.0]]), torch.tensor([[-1.0], [9.0]])
    # to 0, generated 1 and real −1 are equally near; nearest to 1 is its own side; to −1 and 9, the other one
    assert accuracy(generated, real).item() == pytest.approx((0.5 + 1 + 0 + 0) / 4)


def test_one_generated_image_repeated_is_told_apart():
    real = normal(0, 30, 5)
    assert accuracy(normal(1, 1, 5).expand(30, 5), real).item() > 0.9


def test_only_as_many_images_as_both_sides_have_are_compared():
    generated, real = normal(0, 50, 3), normal(1, 20, 3)
    assert accuracy(generated, real).item() == pytest.approx(by_library(generated[:20], real), abs=1e-12)
    assert accuracy(real, generated).item() == pytest.approx(by_library(real, generated[:20]), abs=1e-12)


def test_growing_noise_is_told_apart_ever_better():
    real, made = normal(0, 200, 4), normal(1, 200, 4)
    found = [accuracy(made + size * normal(2, 200, 4), real).item() for size in (0.0, 2.0, 20.0)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.2


def test_one_image_of_a_side_is_undefined():
    assert accuracy(torch.zeros(1, 2), torch.zeros(4, 2)) == Undefined(
        "needs 2 images of each side, got 1 generated and 4 real"
    )


def test_another_number_of_features_is_refused():
    with pytest.raises(ShapeError, match="with D = 3 as in referee_features"):
        accuracy(torch.zeros(4, 3), torch.zeros(4, 2))
