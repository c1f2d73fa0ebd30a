"""BIM: what one step is, what many are, bounds, budget."""

import numpy as np
import pytest
import torch

from bench.contract import AdversarialTask, Bound
from methods.adversarial.bim import BIM
from methods.adversarial.fgsm import FGSM

LINF, L2 = Bound.parse("linf_8_255"), Bound.parse("l2_1_2")
both_bounds = pytest.mark.parametrize("bound", [LINF, L2], ids=["linf", "l2"])


def task_for(model, *, bound, budget=20, images=None):
    count = 7
    if images is None:
        images = torch.rand(count, *model.image_shape, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % model.num_classes
    known = {"references": images, "reference_labels": labels}
    return AdversarialTask(
        model=model,
        places=torch.arange(count),
        seed=0,
        budget=budget,
        images=images,
        labels=labels,
        bound=bound,
        **known,
    )


@pytest.mark.parametrize(("bound", "step"), [(LINF, Bound("linf", 2 / 255)), (L2, Bound("l2", 1 / 8))])
def test_one_step_is_that_of_fgsm_with_its_size_for_a_bound(tiny_classifier, bound, step):
    one = BIM().attack(task_for(tiny_classifier, bound=bound, budget=3))
    assert torch.allclose(one, FGSM().attack(task_for(tiny_classifier, bound=step)), atol=1e-6)


@pytest.mark.parametrize(("steps", "reached"), [(1, 2), (3, 6), (4, 8), (9, 8)])
def test_steps_add_up_to_the_bound_and_no_further(linear_classifier, steps, reached):
    weights = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    images = torch.full((7, 1, 4, 4), 0.5)
    task = task_for(linear_classifier(weights), bound=LINF, budget=2 * steps, images=images)
    ways = torch.stack([(weights[1 - label] - weights[label]).sign() for label in task.labels.tolist()])
    assert torch.allclose(BIM().attack(task), images + reached / 255 * ways, atol=1e-6)


@both_bounds
def test_bound_and_range_are_kept_exactly(tiny_classifier, bound):
    task = task_for(tiny_classifier, bound=bound)
    found = BIM().attack(task)
    change = found.numpy().astype(np.float64) - task.images.numpy().astype(np.float64)
    largest = np.abs(change).max() if bound.norm == "linf" else np.sqrt((change**2).sum((1, 2, 3))).max()
    assert 0.9 * bound.size < largest <= bound.size
    assert found.min() >= 0
    assert found.max() <= 1


@both_bounds
def test_nothing_is_drawn_and_two_passes_a_step_are_spent(tiny_classifier, bound):
    one, other = (BIM().attack(task_for(tiny_classifier, bound=bound).replace(seed=seed)) for seed in (0, 1))
    assert torch.equal(one, other)
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (2 * 7 * 10, 2 * 7 * 10)


def test_reasons_to_skip(tiny_classifier):
    task = task_for(tiny_classifier, bound=Bound.parse("none"))
    assert BIM().why_not(task) == "needs a bound (linf or l2), the condition has none"
    assert BIM().why_not(task.replace(bound=LINF, budget=1)) == "needs 2 passes an image, the budget is 1"
    assert BIM().why_not(task.replace(bound=LINF, budget=2)) is None
