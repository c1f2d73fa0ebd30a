"""Sort matching: its definition as plain loops, optimal transport, one sort, and which taps have a distribution."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.utils._python_dispatch import TorchDispatchMode

from bench.contract import SetupError, ShapeError
from bench.sort_matching import distributions, sort_matching_loss, sorted_mean, stable_sort


def numbers(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets_like(features, seed=9):
    return numbers(seed, *features.shape).sort(dim=2).values


CASES = {
    "random": numbers(0, 3, 4, 7),
    "tied": (2 * numbers(1, 3, 4, 7)).round(),
    "like a ReLU's": numbers(2, 3, 4, 7).relu(),
    "constant": torch.full((3, 4, 7), 0.25, dtype=torch.float64),
}


def by_definition(features, targets):
    """Value of each image and its gradient, number by number."""
    values, gradient = [], torch.zeros_like(features)
    images, channels, positions = features.shape
    for n in range(images):
        total = 0.0
        for c in range(channels):
            order = sorted(range(positions), key=lambda d: features[n, c, d].item())
            for place, d in enumerate(order):
                missing = features[n, c, d].item() - targets[n, c, place].item()
                total += missing**2
                gradient[n, c, d] = 2 * missing / (channels * positions)
        values.append(total / (channels * positions))
    return torch.tensor(values, dtype=torch.float64), gradient


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_the_definition(case):
    features, targets = CASES[case].clone().requires_grad_(), targets_like(CASES[case])
    loss = sort_matching_loss(features, targets)
    outer = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)  # each image's gradient is scaled by its own
    (gradient,) = torch.autograd.grad(loss, features, outer)
    value, slope = by_definition(CASES[case], targets)
    torch.testing.assert_close(loss, value, atol=1e-10, rtol=0)
    torch.testing.assert_close(gradient, slope * outer[:, None, None], atol=1e-10, rtol=0)


def test_the_gradient_is_that_of_the_value():
    features, targets = numbers(3, 2, 3, 5).requires_grad_(), targets_like(numbers(3, 2, 3, 5))
    assert torch.autograd.gradcheck(lambda moved: sort_matching_loss(moved, targets), features)


def test_no_other_pairing_of_values_costs_less():
    features, targets = numbers(4, 1, 1, 12), targets_like(numbers(4, 1, 1, 12))
    cost = np.subtract.outer(features[0, 0].numpy(), targets[0, 0].numpy()) ** 2
    cheapest = cost[linear_sum_assignment(cost)].mean()
    assert sort_matching_loss(features, targets).item() == pytest.approx(cheapest, abs=1e-12)


def test_targets_are_means_of_sorted_values_and_their_own_image_costs_nothing():
    features = numbers(5, 4, 2, 6)
    by_hand = [[sum(sorted(image[c])[d] for image in features.tolist()) / 4 for d in range(6)] for c in range(2)]
    torch.testing.assert_close(sorted_mean(features), torch.tensor(by_hand, dtype=torch.float64), atol=1e-12, rtol=0)
    shuffled = features[:1, :, torch.randperm(6, generator=torch.Generator().manual_seed(0))].requires_grad_()
    loss = sort_matching_loss(shuffled, sorted_mean(features[:1])[None])
    (gradient,) = torch.autograd.grad(loss.sum(), shuffled)
    assert loss.item() == 0 and not gradient.any()


def test_what_differs_between_images_is_averaged_away():
    """50 images with deviation 1 inside and 2 between: all values together have about √5, the target about 1."""
    features = numbers(6, 50, 1, 4000) + 2 * numbers(7, 50, 1, 1)
    assert features.std() > 1.9
    assert sorted_mean(features).std().item() == pytest.approx(1.0, abs=0.02)


def test_an_image_does_not_depend_on_its_batch_mates():
    features, targets = CASES["like a ReLU's"].float().requires_grad_(), targets_like(CASES["random"]).float()
    whole = sort_matching_loss(features, targets)
    (slope,) = torch.autograd.grad(whole.sum(), features)
    for n in range(3):
        alone = features[n : n + 1].detach().requires_grad_()
        loss = sort_matching_loss(alone, targets[n : n + 1])
        assert torch.equal(loss[0], whole[n])
        assert torch.equal(torch.autograd.grad(loss.sum(), alone)[0][0], slope[n])


class _Called(TorchDispatchMode):
    """Names of all operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_one_sort_and_one_tensor_kept_for_the_way_back():
    features, kept = numbers(8, 2, 3, 5).requires_grad_(), []
    targets = targets_like(features)
    with _Called() as called, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        sort_matching_loss(features, targets).sum().backward()
    assert sum("sort" in name for name in called.names) == 1
    assert [tensor.shape for tensor in kept] == [features.shape]


def test_maps_are_flattened_and_tokens_transposed():
    maps, tokens = numbers(10, 2, 3, 4, 5), numbers(11, 2, 7, 3)
    assert distributions(maps)[1, 2].tolist() == [maps[1, 2, i, j].item() for i in range(4) for j in range(5)]
    assert distributions(tokens)[1, 2].tolist() == [tokens[1, t, 2].item() for t in range(7)]
    assert distributions(tokens, 2)[1, 2].tolist() == [tokens[1, t, 2].item() for t in range(2, 7)]
    with pytest.raises(SetupError, match="have no positions"):
        distributions(numbers(12, 2, 3))


def test_lengths_that_do_not_fit_are_an_error():
    with pytest.raises(ShapeError, match=r"targets should be \(N, C, D\) with D = 7"):
        sort_matching_loss(CASES["random"], CASES["random"][..., :6])


SORTED = {
    "normal": numbers(11, 2, 3, 40).float(),
    "tied": (2 * numbers(12, 2, 3, 40)).round().float(),
    "like a ReLU's": numbers(13, 2, 3, 40).relu().float(),
    "with negative zeros": -numbers(14, 2, 3, 40).relu().float(),
    "with infinities and nothing": torch.tensor([[[1.0, -torch.inf, torch.nan, torch.inf, -1e-45, 1e-45, 0.0, -3e38]]]),
    "across strides": numbers(15, 2, 40, 3).float().mT,
    "of 64 bits": numbers(16, 2, 3, 40),
    "of 16 bits": numbers(17, 2, 3, 40).bfloat16(),
    "none": torch.zeros(0, 3, 5),
}


@pytest.mark.parametrize("case", SORTED)
def test_the_stable_sort_is_that_of_torch(case):
    values = SORTED[case].clone()
    ordered, places = stable_sort(values)
    expected = SORTED[case].sort(dim=-1, stable=True)
    torch.testing.assert_close(ordered, expected.values, atol=0, rtol=0, equal_nan=True)
    assert torch.equal(places, expected.indices)
    torch.testing.assert_close(values, SORTED[case], atol=0, rtol=0, equal_nan=True)  # not sorted in place
