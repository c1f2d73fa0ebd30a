import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.randomisation_rank_correlation import randomisation_rank_correlation

MAPS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


def test_a_map_that_ignores_the_weights_has_one():
    values = randomisation_rank_correlation(maps=MAPS, randomised_maps=MAPS)
    assert values.tolist() == pytest.approx([1, 1, 1], abs=1e-12)


def test_only_the_order_of_sizes_counts():
    bent = -MAPS.sign() * MAPS.abs().pow(3)
    values = randomisation_rank_correlation(maps=MAPS, randomised_maps=bent)
    assert values.tolist() == pytest.approx([1, 1, 1], abs=1e-12)


def test_a_map_turned_upside_down_counts_as_the_same():
    values = randomisation_rank_correlation(maps=MAPS, randomised_maps=1 / MAPS)
    assert values.tolist() == pytest.approx([1, 1, 1], abs=1e-12)


def test_four_pixels_by_hand():
    """Ranks 1 2 3 4 against 2 1 4 3: 1 − 6 · 4 / (4 · 15)."""
    first, second = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[20.0, -10.0], [40.0, -30.0]]])
    value = randomisation_rank_correlation(maps=first, randomised_maps=second).item()
    assert value == pytest.approx(0.6, abs=1e-12)


def test_noise_has_the_size_that_the_docstring_gives():
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(400, 20, 20, generator=generator), torch.rand(400, 20, 20, generator=generator)
    mean = randomisation_rank_correlation(maps=first, randomised_maps=second).mean().item()
    assert mean == pytest.approx(0.8 / 20, rel=0.1)


def test_a_flat_map_has_no_ranks():
    flat = MAPS.clone()
    flat[1] = 0.5
    values = randomisation_rank_correlation(maps=MAPS, randomised_maps=flat)
    assert values.isnan().tolist() == [False, True, False]
    answer = randomisation_rank_correlation(maps=MAPS, randomised_maps=torch.zeros_like(MAPS))
    assert isinstance(answer, Undefined)


def test_maps_of_other_images_are_refused():
    with pytest.raises(ShapeError, match="randomised_maps should be"):
        randomisation_rank_correlation(maps=MAPS, randomised_maps=MAPS[:2])
