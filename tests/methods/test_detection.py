"""The score of max_softmax by hand."""

import math

import pytest
import torch

from bench.contract import DetectionTask
from methods.detection.max_softmax import MaxSoftmax


def task_for(model, images, budget=1):
    clean = images[:0]
    return DetectionTask(
        model=model,
        places=torch.arange(len(images)),
        seed=0,
        budget=budget,
        images=images,
        clean=clean,
        clean_labels=torch.zeros(0, dtype=torch.int64),
        known=clean,
        known_attacked=torch.zeros(0, dtype=torch.bool),
        known_originals=torch.zeros(0, dtype=torch.int64),
        known_labels=torch.zeros(0, dtype=torch.int64),
    )


def test_score_is_one_minus_the_largest_probability(tiny_classifier):
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = MaxSoftmax().score(task_for(tiny_classifier, images))
    assert scores.dtype == torch.float32
    for score, logits in zip(scores.tolist(), tiny_classifier(images).tolist(), strict=True):
        likeliest = math.exp(max(logits)) / sum(math.exp(logit) for logit in logits)
        assert score == pytest.approx(1 - likeliest, rel=1e-5)


def test_a_network_without_an_opinion_scores_one_minus_one_over_the_classes(linear_classifier):
    model = linear_classifier(torch.zeros(4, 1, 2, 2))
    assert MaxSoftmax().score(task_for(model, torch.ones(1, 1, 2, 2))).item() == pytest.approx(0.75)


def test_images_whose_probability_rounds_to_one_keep_their_order(linear_classifier):
    model = linear_classifier(torch.stack([torch.full((1, 2, 2), 10.0), torch.full((1, 2, 2), -10.0)]))
    images = torch.tensor([0.8, 0.9, 1.0])[:, None, None, None].expand(3, 1, 2, 2)
    assert (model(images).softmax(1).amax(1) == 1).all()
    scores = MaxSoftmax().score(task_for(model, images))
    expected = [1 / (1 + math.exp(40 * (2 * x - 1))) for x in (0.8, 0.9, 1.0)]  # two classes, 40 (2x − 1) apart
    assert scores.tolist() == pytest.approx(expected, rel=1e-3)


def test_one_pass_an_image_is_spent(tiny_classifier):
    MaxSoftmax().score(task_for(tiny_classifier, torch.zeros(5, 3, 8, 8)))
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (5, 0)


def test_reasons_to_skip(tiny_classifier):
    images = torch.zeros(1, 3, 8, 8)
    assert MaxSoftmax().why_not(task_for(tiny_classifier, images, 0)) == "needs 1 pass an image, the budget is 0"
    assert MaxSoftmax().why_not(task_for(tiny_classifier, images)) is None
