import itertools
import math

import numpy as np
import pytest
import torch

from bench.contract import Undefined
from metrics.reference_copy_ratio import reference_copy_ratio


def nearest(image, others, number):
    """Mean, over every choice of so many others, of the distance to the nearest of them."""
    apart = [np.linalg.norm(image - other) for other in others]
    return np.mean([min(chosen) for chosen in itertools.combinations(apart, number)])


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(features, labels, references, reference_labels, real, real_labels):
    return reference_copy_ratio(
        referee_features=features,
        labels=torch.as_tensor(labels),
        reference_referee_features=references,
        reference_labels=torch.as_tensor(reference_labels),
        real_referee_features=real,
        real_labels=torch.as_tensor(real_labels),
    )


def test_agrees_with_its_definition_whichever_side_has_more():
    features, references, real = drawn(6, 4, seed=0), drawn(11, 4, seed=1), drawn(12, 4, seed=2)
    labels, reference_labels = [0, 1, 2, 0, 1, 2], [0] * 6 + [1] * 3 + [2] * 2
    real_labels = [0] * 3 + [1] * 7 + [2] * 2
    values = measured(features, labels, references, reference_labels, real, real_labels)
    for value, image, label in zip(values.tolist(), features.double().numpy(), labels, strict=True):
        ours = references.double().numpy()[np.array(reference_labels) == label]
        theirs = real.double().numpy()[np.array(real_labels) == label]
        number = min(len(ours), len(theirs))
        expected = nearest(image, ours, number) / nearest(image, theirs, number)
        assert value == pytest.approx(expected, rel=1e-12)


def test_a_copy_has_exactly_zero():
    references, real = drawn(20, 300, seed=0) * 100, drawn(20, 300, seed=1) * 100
    values = measured(references[:5], [0] * 5, references, [0] * 20, real, [0] * 20)
    assert values.tolist() == [0] * 5


def test_images_of_another_class_count_on_neither_side():
    features, references, real = drawn(3, 5, seed=0), drawn(6, 5, seed=1), drawn(6, 5, seed=2)
    labels = [0, 0, 0]
    own = measured(features, labels, references, [0] * 6, real, [0] * 6)
    others = torch.cat([references, features]), torch.cat([real, features])  # copies, but of class 1
    mixed = measured(features, labels, others[0], [0] * 6 + [1] * 3, others[1], [0] * 6 + [1] * 3)
    assert torch.equal(own, mixed)


@pytest.mark.parametrize(("references", "held_out"), [(40, 40), (40, 10), (10, 40)])
def test_fresh_images_of_the_class_have_one_on_average_whatever_the_numbers(references: int, held_out: int):
    values = measured(
        drawn(400, 6, seed=0),
        [0] * 400,
        drawn(references, 6, seed=1),
        [0] * references,
        drawn(held_out, 6, seed=2),
        [0] * held_out,
    )
    assert values.log().mean().item() == pytest.approx(0, abs=0.1)


def test_the_fifty_first_reference_is_one_that_no_method_saw():
    references, real = drawn(51, 8, seed=0), drawn(51, 8, seed=1)
    values = measured(references[[49, 50]], [0, 0], references, [0] * 51, real, [0] * 51)
    assert values[0] == 0 and values[1] > 0.2


def test_a_class_without_one_of_the_sides_has_no_value():
    features, known = drawn(3, 4, seed=0), drawn(4, 4, seed=1)
    values = measured(features, [0, 1, 2], known, [0, 0, 1, 1], known + 1, [0, 0, 2, 2]).tolist()
    assert not math.isnan(values[0]) and all(map(math.isnan, values[1:]))
    nothing = measured(features, [3, 3, 3], known, [0, 0, 1, 1], known, [0, 0, 2, 2])
    assert nothing == Undefined("no class shown has references and held-out images to compare with")


def test_an_image_equal_to_a_held_out_one_has_no_value_not_infinity():
    features, known = drawn(2, 4, seed=0), drawn(4, 4, seed=1)
    values = measured(features, [0, 0], known, [0] * 4, torch.cat([features[:1], known[:3] + 1]), [0] * 4).tolist()
    assert math.isnan(values[0]) and math.isfinite(values[1])
