"""Attribution metrics against quantus and SciPy, which share no code with them."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from torch import nn

from metrics._attribution import average_ranks, swap_curve
from metrics.deletion_auc import deletion_auc
from metrics.randomisation_rank_correlation import randomisation_rank_correlation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

SIDE, CLASSES, COUNT = 8, 4, 6


@pytest.fixture(scope="module")
def world():
    """A linear network, images with one black pixel each (quantus blackens to the least intensity), and labels."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES, bias=False)).eval()
    network[1].weight.data = torch.randn(CLASSES, SIDE * SIDE, generator=generator)
    images = torch.rand(COUNT, 1, SIDE, SIDE, generator=generator)
    images[:, 0, 3, 5] = 0
    with torch.no_grad():
        labels = network(images).argmax(1)
    return network, images, labels


def exact(network, images, labels):
    """What each pixel adds to the label's logit."""
    return network[1].weight.detach()[labels].view_as(images)[:, 0] * images[:, 0]


def by_quantus(metric, world, maps):
    network, images, labels = world
    found = metric(
        model=network,
        x_batch=images.numpy(),
        y_batch=labels.numpy(),
        a_batch=maps[:, None].numpy(),
        softmax=True,
        channel_first=True,
        device="cpu",
    )
    return np.array(found)


@pytest.mark.parametrize("step", [1, 4, 16])
def test_the_deletion_curve_is_the_pixel_flipping_of_quantus(world, step):
    network, images, labels = world
    maps = torch.rand(COUNT, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    flipping = quantus.PixelFlipping(features_in_step=step, normalise=False, disable_warnings=True)
    steps = SIDE * SIDE // step
    ours = swap_curve(network, images, torch.zeros_like(images), maps, labels, steps)
    np.testing.assert_allclose(ours[:, 1:].numpy(), by_quantus(flipping, world, maps), atol=1e-5)


def test_regions_fall_in_the_order_of_quantus(world):
    network, images, labels = world
    regions = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    maps = nn.functional.interpolate(regions, scale_factor=2, mode="nearest")[:, 0]
    falling = quantus.RegionPerturbation(
        patch_size=2, regions_evaluation=16, normalise=False, disable_warnings=True, order="morf"
    )
    ours = swap_curve(network, images, torch.zeros_like(images), maps, labels, steps=16)
    np.testing.assert_allclose((ours[:, :1] - ours[:, 1:]).numpy(), by_quantus(falling, world, maps), atol=1e-5)


def test_deletion_orders_maps_as_quantus_does(world):
    network, images, labels = world
    right = exact(network, images, labels)
    noise = torch.rand(right.shape, generator=torch.Generator().manual_seed(3))
    flipping = quantus.PixelFlipping(features_in_step=4, normalise=False, disable_warnings=True)
    ours, theirs = [], []
    for maps in (right, noise, -right):
        values = deletion_auc(maps=maps, real=images, labels=labels, target=network, steps=16)
        ours.append(values.mean().item())
        theirs.append(by_quantus(flipping, world, maps).mean())  # its own area needs a NumPy before 2
    assert sorted(range(3), key=ours.__getitem__) == sorted(range(3), key=theirs.__getitem__) == [0, 1, 2]


@pytest.mark.parametrize("levels", [3, 40, 10**6])
def test_ranks_are_those_of_scipy_with_many_and_few_ties(levels):
    rows = torch.randint(0, levels, (5, 60), generator=torch.Generator().manual_seed(levels)).float()
    np.testing.assert_array_equal(average_ranks(rows).numpy(), rankdata(rows.numpy(), axis=1))


@pytest.mark.parametrize("levels", [3, 10**6])
def test_rank_correlation_is_that_of_scipy(levels):
    generator = torch.Generator().manual_seed(levels)
    maps = torch.randint(-levels, levels, (7, 6, 5), generator=generator).float()
    others = maps.roll(1, 0) + torch.randint(-levels, levels, (7, 6, 5), generator=generator)
    values = randomisation_rank_correlation(maps=maps, randomised_maps=others)
    expected = [
        abs(spearmanr(a.abs().flatten().numpy(), b.abs().flatten().numpy()).statistic)
        for a, b in zip(maps, others, strict=True)
    ]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-12)
