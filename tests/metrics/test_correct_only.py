"""Diversity of correctly labelled images: the plain metric of the images that a loop picks out."""

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.same_class_rmse import same_class_rmse
from metrics.same_class_rmse_correct import same_class_rmse_correct
from metrics.vendi_correct import vendi_correct
from metrics.vendi_referee_cosine import vendi_referee_cosine


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def logits_of(answers, classes=4):
    return torch.nn.functional.one_hot(torch.tensor(answers), classes).float()


def picked(answers, label):
    return [place for place, answer in enumerate(answers) if answer == label]


ANSWERS = [2, 1, 2, 2, 0, 2, 3]
LABELS = torch.full((7,), 2)


def test_only_images_that_the_subject_gives_their_class_enter():
    images, features = drawn(7, 1, 5, 5), drawn(7, 6, seed=1)
    right = picked(ANSWERS, 2)
    assert right == [0, 2, 3, 5]
    ours = same_class_rmse_correct(generated=images, target_logits=logits_of(ANSWERS), labels=LABELS)
    assert ours.item() == pytest.approx(same_class_rmse(generated=images[right]).item(), abs=1e-12)
    assert ours.item() != pytest.approx(same_class_rmse(generated=images).item(), abs=1e-4)
    ours = vendi_correct(referee_features=features, target_logits=logits_of(ANSWERS), labels=LABELS)
    assert ours.item() == pytest.approx(vendi_referee_cosine(referee_features=features[right]).item(), abs=1e-12)


@pytest.mark.parametrize("answers", [[0, 0, 0], [2, 0, 1]])
def test_fewer_than_two_right_images_are_a_reason_and_no_zero(answers):
    labels, count = torch.full((3,), 2), answers.count(2)
    found = [
        same_class_rmse_correct(generated=drawn(3, 1, 5, 5), target_logits=logits_of(answers), labels=labels),
        vendi_correct(referee_features=drawn(3, 6), target_logits=logits_of(answers), labels=labels),
    ]
    for one in found:
        assert isinstance(one, Undefined)
        assert f"gives {count} of 3 images" in one.reason


def test_labels_outside_the_logits_are_refused():
    with pytest.raises(ShapeError, match="labels"):
        vendi_correct(referee_features=drawn(3, 6), target_logits=logits_of([0, 1, 2]), labels=torch.full((3,), 9))
