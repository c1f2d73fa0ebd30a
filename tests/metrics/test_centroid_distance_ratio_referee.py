import math

import numpy as np
import pytest
import torch

from bench.contract import Undefined
from metrics.centroid_distance_ratio_referee import centroid_distance_ratio_referee


def by_definition(image, known):
    """Of one image and the real images of its class, as rows of NumPy numbers: the centroid is taken anew each time."""
    apart = [np.linalg.norm(one - np.delete(known, place, 0).mean(0)) for place, one in enumerate(known)]
    return np.linalg.norm(image - known.mean(0)) / np.mean(apart)


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(features, labels, real_features, real_labels):
    return centroid_distance_ratio_referee(
        referee_features=features,
        labels=torch.tensor(labels),
        real_referee_features=real_features,
        real_labels=torch.tensor(real_labels),
    )


def test_agrees_with_its_definition():
    features, real = drawn(5, 7, seed=0), drawn(9, 7, seed=1) + 1
    labels, real_labels = [2, 0, 2, 1, 0], [0, 1, 2, 0, 1, 2, 2, 2, 0]
    values = measured(features, labels, real, real_labels)
    for value, image, label in zip(values.tolist(), features.double().numpy(), labels, strict=True):
        known = real.double().numpy()[np.array(real_labels) == label]
        assert value == pytest.approx(by_definition(image, known), rel=1e-12)


def test_the_centroid_of_the_own_class_has_zero_and_that_of_another_class_its_distance():
    real = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-1.0, 8.0], [1.0, 8.0]])  # each is 2 from the other of its class
    centres = torch.tensor([[0.0, 0.0], [0.0, 8.0], [0.0, 8.0]])
    assert measured(centres, [0, 0, 1], real, [0, 0, 1, 1]).tolist() == [0, 4, 0]


def test_one_more_real_image_of_the_class_has_about_one_however_few_there_are():
    for count in (3, 30):
        ratios = []
        for seed in range(300):
            every = drawn(count + 1, 50, seed=seed)
            ratios.append(measured(every[:1], [0], every[1:], [0] * count).item())
        assert np.mean(ratios) == pytest.approx(1, abs=0.02 if count > 3 else 0.06)


def test_a_class_without_two_different_real_images_has_no_value():
    real = torch.tensor([[0.1, 0.0], [2.0, 0.0], [5.0, 0.3], [0.7, 0.3], [0.7, 0.3], [0.7, 0.3]])
    values = measured(torch.zeros(4, 2), [0, 1, 2, 7], real, [0, 0, 1, 2, 2, 2]).tolist()
    assert not math.isnan(values[0]) and all(map(math.isnan, values[1:]))
    nothing = measured(torch.zeros(2, 2), [1, 2], real, [0, 0, 1, 2, 2, 2])
    assert nothing == Undefined("no class shown has 2 different real images")
