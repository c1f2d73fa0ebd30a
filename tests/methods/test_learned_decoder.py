"""A decoder finds images again from features that keep them, from every kind of tap and for every size of image."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.contract import BudgetExceeded, Diverged, PassCounter, ReconstructionTask
from methods.reconstruction.learned_decoder import LearnedDecoder

QUICK = LearnedDecoder(steps=2, width=4)


def numbers(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def waves(count, *shape, seed=0):
    """(count, C, H, W) pictures of one fixed wave whose height is uniform in [−0.5, 0.5], around mid-grey."""
    heights = numbers(count, 1, 1, 1, seed=seed) - 0.5
    wave = torch.linspace(0, 20, math.prod(shape)).sin().view(1, *shape)
    return 0.5 + heights * wave


@dataclass
class Features:
    """A subject that is nothing but a function from images to the tensor of its one tap."""

    image_shape: tuple[int, int, int]
    function: object
    passes: PassCounter = field(default_factory=PassCounter)
    calls: list = field(default_factory=list)

    def features(self, images, tap):
        self.passes.spend(forward=len(images))
        self.calls.append(len(images))
        return self.function(images)


def projected(shape):
    """A function from images to features of this shape: a fixed random projection of the pixels."""

    def function(images):
        flat = images.flatten(1)
        return (flat @ numbers(flat.shape[1], math.prod(shape), seed=9)).view(-1, *shape)

    return function


def task_for(model, images, references, *, seed=0, budget=1000, tap="tap"):
    with torch.no_grad():
        wanted = model.features(images, tap)
    model.passes = PassCounter(limit=budget * len(images))
    return ReconstructionTask(
        model=model,
        places=torch.arange(len(images)),
        seed=seed,
        budget=budget,
        tap=tap,
        wanted=wanted,
        references=references,
        reference_labels=torch.zeros(len(references), dtype=torch.int64),
    )


def small_task(function=None, shape=(1, 8, 8), **settings):
    model = Features(shape, function or projected((12,)))
    return task_for(model, waves(4, *shape, seed=1), waves(20, *shape, seed=2), **settings)


def look(method, task):
    return method.reconstruct(task.replace(fitted=method.fit(task)))


def alone(task, row):
    return task.replace(places=task.places[row : row + 1], wanted=task.wanted[row : row + 1])


# ---- what it is for ------------------------------------------------------------------------------------------------


def turned(images):
    """An orthogonal map of the pixels: every image can be found again."""
    flat = images.flatten(1)
    return flat @ torch.linalg.qr(numbers(flat.shape[1], flat.shape[1], seed=3) - 0.5).Q


def as_tokens(images):
    """Patches of 2 × 2 pixels as tokens, behind a class token."""
    patches = F.pixel_unshuffle(images, 2).flatten(2).mT
    return torch.cat([patches.mean(1, keepdim=True), patches], 1)


@pytest.mark.parametrize("function", [turned, lambda images: F.pixel_unshuffle(images, 2), as_tokens, torch.clone])
def test_images_are_found_again_behind_an_invertible_linear_map(function):
    """The best constant image is off by the variance: mean w² / 12 for a wave w whose height is uniform, 1 wide.

    The best linear decoder is exact.
    """
    task = small_task(function)
    images, wave = waves(4, 1, 8, 8, seed=1), torch.linspace(0, 20, 64).sin()
    constant = wave.square().mean().item() / 12
    error = (look(LearnedDecoder(steps=200, epochs=1000), task) - images).square().mean().item()
    assert error < constant / 10


def test_real_digits_are_found_again_behind_a_trained_network(digits, digits_classifier):
    """Most are nearest to their own digit of 100; the mean image is off by three times as much."""
    images, references = digits[0][1200:1300], digits[0][:1000]
    task = task_for(digits_classifier, images, references, tap="block1")
    made = look(LearnedDecoder(steps=500), task)
    assert (torch.cdist(made.flatten(1), images.flatten(1)).argmin(1) == torch.arange(100)).float().mean() > 0.8
    constant = (references.mean(0) - images).square().mean()
    assert (made - images).square().mean() < constant / 3


def test_more_steps_lower_the_error_on_the_references():
    task = small_task()
    own = task.replace(wanted=task.model.features(task.references, "tap"), places=torch.arange(20))
    errors = [
        (look(LearnedDecoder(steps=steps, width=8, epochs=1000), own) - task.references).square().mean().item()
        for steps in (1, 20, 100)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_scale_and_offset_of_each_channel_change_nothing():
    scale, offset = 1.5 ** torch.arange(12), 10 * numbers(12)
    plain, changed = small_task(), small_task(lambda images: projected((12,))(images) * scale + offset)
    assert (look(QUICK, plain) - look(QUICK, changed)).abs().max() < 1e-3


def test_features_that_never_change_give_an_image_and_no_nan():
    made = look(QUICK, small_task(lambda images: torch.full((len(images), 5), 0.3)))
    assert made.isfinite().all()


# ---- taps and sizes ------------------------------------------------------------------------------------------------

VECTOR, POINT, MAP, TOKENS, CLASS_TOKEN, REGISTERS = (6,), (6, 1, 1), (6, 3, 3), (9, 6), (10, 6), (14, 6)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 224, 224), (1, 7, 7), (3, 18, 31)], ids=str)
@pytest.mark.parametrize("tap", [VECTOR, POINT, MAP, TOKENS, CLASS_TOKEN, REGISTERS, (2, 5, 4)], ids=str)
def test_every_kind_of_tap_gives_an_image_of_the_right_size(shape, tap):
    model = Features(shape, lambda images: images[:, :1, :7, :7].flatten(1).repeat(1, 2)[:, : math.prod(tap)])
    model.function = (lambda pixels: lambda images: pixels(images).view(-1, *tap))(model.function)
    task = task_for(model, numbers(2, *shape), numbers(3, *shape, seed=1))
    assert QUICK.why_not(task) is None
    made = look(QUICK, task)
    assert made.shape == (2, *shape)
    assert made.dtype == torch.float32
    assert 0 <= made.min() <= made.max() <= 1


@pytest.mark.parametrize("side", [28, 14, 13, 2, 40])
def test_a_map_of_any_size_will_do(side):
    task = small_task(lambda images: F.interpolate(images, (side, side)), shape=(1, 28, 28))
    assert look(QUICK, task).shape == (4, 1, 28, 28)


def test_tokens_lie_on_the_grid_of_the_map_that_they_came_from():
    def as_map(images):
        return F.pixel_unshuffle(images, 2)

    grid, tokens = (look(QUICK, small_task(function, shape=(1, 8, 12))) for function in (as_map, as_tokens))
    assert (grid - tokens).abs().max() <= 1e-5


def test_a_tap_of_another_kind_is_a_reason():
    task = small_task(lambda images: images[:, None])
    wanted = "needs features (B, D), (B, D, H, W) or (B, tokens, D), tap has 5 axes"
    assert LearnedDecoder().why_not(task) == wanted


# ---- laws ----------------------------------------------------------------------------------------------------------


def test_the_seed_decides_every_bit_and_the_global_generator_has_no_part():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = look(QUICK, small_task())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = look(QUICK, small_task()), look(QUICK, small_task(seed=1))
    assert torch.equal(one, same)
    assert (one - other).abs().flatten(1).amax(1).min() > 1e-4


@pytest.mark.parametrize("function", [turned, as_tokens, torch.clone])
def test_an_image_alone_comes_out_as_in_a_batch(function):
    task = small_task(function)
    task = task.replace(fitted=QUICK.fit(task))
    single = torch.cat([QUICK.reconstruct(alone(task, row)) for row in range(4)])
    assert (QUICK.reconstruct(task) - single).abs().max() <= 1e-5


def test_the_subject_is_left_as_it_was(digits, digits_classifier):
    before = digits_classifier.checksum()
    look(QUICK, task_for(digits_classifier, digits[0][:3], digits[0][100:110], tap="block1"))
    assert digits_classifier.checksum() == before
    assert not any(parameter.requires_grad for parameter in digits_classifier.parameters())


def test_the_decoder_that_is_handed_over_is_at_rest():
    task = small_task()
    decoder = QUICK.fit(task)
    assert not any(module.training for module in decoder.modules())
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


# ---- cost ----------------------------------------------------------------------------------------------------------


def test_references_pass_once_in_batches_and_the_rest_is_free():
    task = task_for(Features((1, 8, 8), projected((12,))), waves(4, 1, 8, 8), waves(150, 1, 8, 8), budget=38)
    task.model.calls.clear()
    look(QUICK, task)
    assert task.model.calls == [64, 64, 22]
    assert (task.model.passes.forward, task.model.passes.backward) == (150, 0)


def test_a_cell_that_cannot_pay_for_the_references_is_refused_before_any_pass():
    task = small_task(budget=4)
    reason = "needs a pass for each of 20 references, the cell has 16"
    assert LearnedDecoder().why_not(task) == reason
    with pytest.raises(BudgetExceeded, match=reason):
        LearnedDecoder().fit(task)
    assert task.model.passes.total == 0
    assert LearnedDecoder().why_not(task.replace(budget=5)) is None


def test_few_references_are_not_gone_through_for_ever():
    method, seen = LearnedDecoder(steps=10**9, epochs=3, batch_size=8, width=4), []
    task = small_task()
    step = torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self, *args: seen.append(1) or step(self, *args))
        method.fit(task)
    assert len(seen) == 3 * 20 // 8


def test_training_that_leaves_the_finite_numbers_has_diverged():
    with pytest.raises(Diverged, match="4 of 4 images are not finite"):
        look(LearnedDecoder(steps=20, width=4, step_size=1e30), small_task())


def test_layers_keep_the_size_of_a_signal_at_the_start(monkeypatch):
    """Without a step, standard normal features give images of a spread of order one."""
    monkeypatch.setattr(LearnedDecoder, "_train", lambda self, *args: None)
    task = small_task(lambda images: torch.randn(len(images), 12, generator=torch.Generator().manual_seed(len(images))))
    decoder = LearnedDecoder().fit(task)
    assert isinstance(decoder, nn.Module)
    spread = (decoder(task.wanted[..., None, None]) - task.references.mean(0)).std().item()
    assert 0.3 < spread < 5
