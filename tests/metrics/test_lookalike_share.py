from itertools import combinations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch.nn.functional import one_hot

from bench.contract import ShapeError, Undefined
from metrics.lookalike_share import lookalike_share

SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


def nearly_one_picture(count=16, spread=0.1, channels=2, seed=0):
    """Images around one picture, some farther away than others; logits right for most; classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    picture = 0.3 + 0.4 * torch.rand(1, channels, 13, 12, generator=generator)
    sizes = spread * torch.rand(count, 1, 1, 1, generator=generator)
    images = picture + sizes * (2 * torch.rand(count, channels, 13, 12, generator=generator) - 1)
    labels = torch.arange(count) % 4
    logits = torch.randn(count, 4, generator=generator) + 3 * one_hot(labels, 4)
    return {"generated": images, "target_logits": logits, "target_labels": labels}


def by_definition(generated, target_logits, target_labels, ssim=0.9, rmse=8 / 255):
    """One pair after the other with scikit-image."""
    images, given = generated.double().numpy(), target_logits.argmax(1).tolist()
    aimed, alike, every, reasons = target_labels.tolist(), 0, 0, set()
    for i, j in combinations(range(len(images)), 2):
        if aimed[i] == aimed[j]:
            continue
        every += 1
        near = np.sqrt(np.mean((images[i] - images[j]) ** 2)) <= rmse
        same = structural_similarity(images[i], images[j], channel_axis=0, **SETTINGS) >= ssim
        right = given[i] == aimed[i] and given[j] == aimed[j]
        reasons.add((near, same, right))
        alike += near and same and right
    return alike / every, reasons


@pytest.mark.parametrize("channels", [1, 3])
def test_agrees_with_its_definition(channels):
    inputs = nearly_one_picture(channels=channels)
    expected, _ = by_definition(**inputs)
    assert 0.1 < expected < 0.9
    assert lookalike_share(**inputs).item() == pytest.approx(expected, abs=1e-12)


def test_likeness_distance_and_labels_are_all_asked_for():
    inputs, limits = nearly_one_picture(count=40, spread=0.15), {"rmse": 0.04}
    inputs["generated"][::2] = inputs["generated"][::2] * 0.3 + 0.35  # plain pictures: nearer and less alike
    expected, reasons = by_definition(**inputs, **limits)
    assert {(True, False, True), (False, True, True), (True, True, False), (True, True, True)} <= reasons
    assert lookalike_share(**inputs, **limits).item() == pytest.approx(expected, abs=1e-12)


def equal_images(labels, given):
    labels, logits = torch.tensor(labels), one_hot(torch.tensor(given), 5).float()
    return {"generated": torch.full((len(labels), 1, 12, 12), 0.4), "target_logits": logits, "target_labels": labels}


@pytest.mark.parametrize(
    ("labels", "given", "share"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], 1),  # no network does that to equal images, which is why they are the limit
        ([0, 1, 2, 3], [0, 1, 2, 4], 3 / 6),  # three of four are right
        ([0, 1, 2, 3], [0, 0, 0, 0], 0),  # one is right, and has no partner
        ([0, 0, 1], [0, 0, 1], 1),  # the pair of one class is not counted
        ([0, 0, 0, 1], [0, 0, 2, 1], 2 / 3),
    ],
)
def test_of_equal_images_the_share_is_that_of_right_pairs_of_two_classes(labels, given, share):
    assert lookalike_share(**equal_images(labels, given)).item() == pytest.approx(share)


@pytest.mark.parametrize(("shift", "share"), [(7.9 / 255, 1), (8.1 / 255, 0)])
def test_a_shift_of_eight_intensities_is_the_limit(shift, share):
    inputs = nearly_one_picture(count=2, spread=0) | {"target_logits": torch.eye(4)[:2]}
    inputs["generated"][1] += shift
    assert lookalike_share(**inputs).item() == share


def test_a_faint_texture_is_near_and_not_alike():
    board = (torch.arange(12)[:, None] + torch.arange(12)).remainder(2).float()
    images = 0.5 + 0.03 * torch.stack([board, 1 - board])[:, None]  # 0.03 apart everywhere, below 8/255
    inputs = {"generated": images, "target_logits": torch.eye(2), "target_labels": torch.arange(2)}
    assert lookalike_share(**inputs).item() == 0
    assert lookalike_share(**inputs, ssim=-1.0).item() == 1


def test_some_pairs_of_many_images_are_near_all_pairs_of_them_in_any_order():
    inputs = nearly_one_picture(count=60, channels=1)
    every, _ = by_definition(**inputs)
    some = lookalike_share(**inputs, pairs=1000).item()
    assert some != every
    assert some == pytest.approx(every, rel=0.15)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    mixed = {name: value[order] for name, value in inputs.items()}
    assert lookalike_share(**mixed, pairs=1000).item() == some


def test_equal_images_of_two_classes_do_not_depend_on_their_order():
    labels, which = torch.arange(60) % 3, torch.arange(60) // 3 % 2  # two pictures, each made for all three classes
    inputs = equal_images(labels.tolist(), which.tolist())
    inputs["generated"] = inputs["generated"] + 0.01 * which[:, None, None, None]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    mixed = {name: value[order] for name, value in inputs.items()}
    share = lookalike_share(**inputs, pairs=300).item()
    assert 0 < share < 1
    assert lookalike_share(**mixed, pairs=300).item() == share


def test_no_pair_of_two_classes_and_ten_pixels_are_undefined():
    one_class = equal_images([2, 2, 2], [2, 2, 2])
    assert lookalike_share(**one_class) == Undefined("no two images were made for different classes")
    small = equal_images([0, 1], [0, 1]) | {"generated": torch.zeros(2, 1, 12, 10)}
    assert lookalike_share(**small) == Undefined("the window has 11 px, the images 12×10")


def test_images_outside_the_intensities_are_refused():
    inputs = nearly_one_picture(2)
    with pytest.raises(ShapeError, match=r"generated should be intensities in \[0, 1\]"):
        lookalike_share(**(inputs | {"generated": inputs["generated"] * 255}))
