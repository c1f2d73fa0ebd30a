"""Saliency by tracing against plain loops with a back-projection of their own, closed forms, and chance."""

import copy

import pytest
import torch
from torch import nn

from bench.back_projection import BackProjection
from bench.contract import AttributionTask, BudgetExceeded, PassCounter
from bench.zoo.architectures import small_vit
from bench.zoo.classifier import Classifier
from methods.attribution import bort_backtracking
from methods.attribution.bort_backtracking import BortBacktracking
from methods.attribution.random_map import RandomMap
from metrics.deletion_auc import deletion_auc
from metrics.insertion_auc_zero import insertion_auc_zero


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def wrapped(network, shape, tap):
    """The subject around a network with four classes and one tap; its input is 2 x − 1."""
    half = [0.5] * shape[0]
    return Classifier(network, name="small", image_shape=shape, num_classes=4, mean=half, std=half, taps={"top": tap})


def task_for(model, *, images=None, count=3, budget=500):
    if images is None:
        images = torch.rand(count, *model.image_shape, generator=generator(1))
    count = len(images)
    labels = torch.arange(count) % model.num_classes
    return AttributionTask(model=model, places=torch.arange(count), seed=0, budget=budget, images=images, labels=labels)


# ---- plain loops ---------------------------------------------------------------------------------------------------


@pytest.fixture
def convolutional():
    """(2, 13, 13) images, a top layer of 20 channels on 7 x 7 places; both kinds of activation on the way."""

    def make():
        top = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 7, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(7, 20, 3, padding=1),
            nn.ReLU(),
        )
        return nn.Sequential(top, nn.Flatten(), nn.Linear(20 * 49, 4))

    return wrapped(seeded(make), (2, 13, 13), "0")


def undone(layer, output, shape, inverse):
    """What a convolution was given, patch by patch: the mean over the patches that a pixel is in."""
    weight = layer.weight.flatten(1)
    if inverse == "rownorm":
        weight = weight / (weight.square().sum(1, keepdim=True) + 1e-8)
    elif inverse == "pinv":
        weight = torch.linalg.pinv(weight).T
    stride = layer.stride[0]
    total, overlap = (torch.zeros(shape[0], shape[1] + 2, shape[2] + 2, dtype=torch.double) for _ in range(2))
    for i in range(output.shape[1]):
        for j in range(output.shape[2]):
            patch = (output[:, i, j] - layer.bias) @ weight
            here = (slice(None), slice(i * stride, i * stride + 3), slice(j * stride, j * stride + 3))
            total[here] += patch.view(shape[0], 3, 3)
            overlap[here] += 1
    return (total / overlap)[:, 1:-1, 1:-1]


def traced_back(layers, given, output, guided, inverse):
    """From the top to the input of the first layer, ``given`` each layer's recorded input."""
    for layer, recorded in zip(reversed(layers), reversed(given), strict=True):
        if isinstance(layer, nn.Conv2d):
            output = undone(layer, output, recorded.shape, inverse)
        elif isinstance(layer, nn.LeakyReLU):
            output = torch.where(output > 0, output, output / layer.negative_slope)
        elif guided:
            output = torch.where((recorded > 0) & (output > 0), output, 0.0)
    return output


def by_definition(network, image, *, channels=256, height=1000.0, threshold=3.0, guided=True, inverse="transpose"):
    """One image's map, one channel at a time; and how many channels the border rule left."""
    layers, given = list(copy.deepcopy(network)[0].double()), []
    passing = 2 * image.double() - 1
    for layer in layers:
        given.append(passing)
        passing = layer(passing[None])[0]
    kept = []
    for channel, plane in enumerate(passing):
        value = plane.max().item()
        i, j = divmod(plane.flatten().tolist().index(value), 7)
        if value > 0 and 0 < i < 6 and 0 < j < 6:
            kept.append((-value, channel, i, j))
    saliency = torch.zeros(13, 13, dtype=torch.double)
    nothing = traced_back(layers, given, torch.zeros_like(passing), guided, inverse)
    for minus_value, channel, i, j in sorted(kept)[:channels]:
        peak = torch.zeros_like(passing)
        peak[channel, i, j] = height
        trace = (traced_back(layers, given, peak, guided, inverse) - nothing).abs().sum(0)
        saliency += -minus_value * (trace > threshold * trace.mean())
    return saliency / saliency.max(), len(kept)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guided": False},
        {"inverse": "rownorm"},
        {"inverse": "pinv"},
        {"channels": 4},
        {"threshold": 8.0, "height": 0.5},
    ],
    ids=str,
)
def test_agrees_with_its_definition(convolutional, settings):
    task = task_for(convolutional)
    maps = BortBacktracking(**settings).explain(task)
    for row, image in enumerate(task.images):
        with torch.no_grad():
            expected, kept = by_definition(convolutional.network, image, **settings)
        assert 4 < kept < 20, "some channels are kept and some are not"
        torch.testing.assert_close(maps[row], expected.float(), atol=1e-5, rtol=0)


def test_settings_change_the_map(convolutional):
    task = task_for(convolutional)
    changes = ({}, {"guided": False}, {"inverse": "rownorm"}, {"inverse": "pinv"}, {"channels": 4}, {"threshold": 8.0})
    maps = [BortBacktracking(**settings).explain(task) for settings in changes]
    assert all((one - other).abs().max() > 0.01 for i, one in enumerate(maps) for other in maps[:i])


def test_how_many_traces_are_made_at_once_does_not_matter(convolutional, monkeypatch):
    task = task_for(convolutional)
    whole = BortBacktracking().explain(task)
    monkeypatch.setattr(bort_backtracking, "AT_ONCE", 10)  # 3 channels of 3 images, and 2 channels in the end
    torch.testing.assert_close(BortBacktracking().explain(task), whole, atol=1e-5, rtol=0)


# ---- closed forms --------------------------------------------------------------------------------------------------


def stamps(gains, side):
    """Channel c is ``gains[c]`` times the (c mod 4)th pixel of each 2 x 2 patch; its trace is that pixel alone."""
    convolution = nn.Conv2d(1, len(gains), 2, stride=2, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()
        for channel, gain in enumerate(gains):
            convolution.weight[channel, 0, channel % 4 // 2, channel % 2] = gain
    network = nn.Sequential(
        nn.Sequential(convolution, nn.ReLU()), nn.Flatten(), nn.Linear(len(gains) * (side // 2) ** 2, 4)
    )
    return wrapped(network, (1, side, side), "0")


def grey(side, **pixels):
    """(1, 1, side, side) of intensity 0.5, which the network sees as 0, but for some pixels: r3c4=1.0."""
    image = torch.full((1, 1, side, side), 0.5)
    for place, intensity in pixels.items():
        row, column = place.removeprefix("r").split("c")
        image[0, 0, int(row), int(column)] = intensity
    return image


def lit(saliency):
    """Where a map is not 0, and how strong."""
    return {(i, j): round(saliency[i, j].item(), 5) for i, j in saliency.nonzero().tolist()}


def test_each_channel_marks_where_it_is_strongest_by_how_strong_it_is():
    images = grey(14, r4c4=1.0, r8c8=0.9, r6c3=0.7, r3c9=0.75)
    saliency = BortBacktracking().explain(task_for(stamps([1.0, 2.0, 3.0, 4.0], 14), images=images))[0]
    # pixels of even rows and columns are channel 0's: 1 at (4, 4); (6, 3) is channel 1's: 2 · 0.4; (3, 9) channel 3's
    assert lit(saliency) == {(4, 4): 0.5, (6, 3): 0.4, (3, 9): 1.0}


def test_a_channel_that_is_strongest_on_the_border_is_left_out():
    images = torch.cat([grey(14, r0c4=1.0, r4c4=0.9), grey(14, r4c12=1.0, r5c5=0.75), grey(14, r2c2=1.0)])
    maps = BortBacktracking().explain(task_for(stamps([1.0] * 4, 14), images=images))
    assert [lit(saliency) for saliency in maps] == [{}, {(5, 5): 1.0}, {(2, 2): 1.0}]


@pytest.mark.parametrize(("side", "marked"), [(8, {(0, 4): 1.0}), (10, {})])
def test_a_map_with_less_inside_than_three_by_three_has_no_border(side, marked):
    task = task_for(stamps([1.0], side), images=grey(side, r0c4=1.0))
    assert lit(BortBacktracking().explain(task)[0]) == marked


def test_of_equal_channels_the_first_are_kept_and_of_equal_places_the_first():
    images = grey(8, r2c2=1.0, r2c6=1.0, r6c2=1.0, r3c3=1.0, r2c3=1.0, r3c2=1.0)
    task = task_for(stamps([1.0] * 8, 8), images=images)
    assert lit(BortBacktracking(channels=3).explain(task)[0]) == {(2, 2): 1.0, (2, 3): 1.0, (3, 2): 1.0}
    assert lit(BortBacktracking(channels=5).explain(task)[0]) == {(2, 2): 1.0, (2, 3): 0.5, (3, 2): 0.5, (3, 3): 0.5}


def test_an_image_without_a_positive_feature_gets_zeros_whatever_is_beside_it():
    images = torch.cat([grey(14), grey(14, r4c4=1.0), torch.zeros(1, 1, 14, 14)])
    maps = BortBacktracking().explain(task_for(stamps([1.0] * 4, 14), images=images))
    assert [lit(saliency) for saliency in maps] == [{}, {(4, 4): 1.0}, {}]


@pytest.mark.parametrize("channels", [2, 256])
def test_units_of_a_vector_are_channels_of_one_place(channels):
    hidden = seeded(lambda: nn.Linear(2 * 36, 5))
    network = nn.Sequential(nn.Flatten(), nn.Sequential(hidden, nn.ReLU()), nn.Linear(5, 4))
    task = task_for(wrapped(network, (2, 6, 6), "1"), count=8)
    maps = BortBacktracking(channels=channels, threshold=1.5).explain(task)
    for row, image in enumerate(task.images):
        values = (hidden.weight.double() @ (2 * image.flatten().double() - 1) + hidden.bias).tolist()
        expected = torch.zeros(6, 6, dtype=torch.double)
        for unit in sorted(range(5), key=lambda unit: -values[unit])[:channels]:
            size = hidden.weight[unit].double().view(2, 6, 6).abs().sum(0)
            expected += max(values[unit], 0) * (size > 1.5 * size.mean())
        torch.testing.assert_close(maps[row].double(), expected / expected.max(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("columns", "settings"),
    [(5, {}), (7, {}), (5, {"reg_tokens": 2}), (5, {"class_token": False, "global_pool": "avg"})],
    ids=str,
)
def test_tokens_are_traced_by_the_blocks_slopes_from_patches_off_the_border(columns, settings):
    shape = (1, 20, 4 * columns)
    network = seeded(lambda: small_vit(shape, 4, width=12, depth=1, heads=2, **settings)).eval()
    task = task_for(wrapped(network, shape, "blocks.0"), count=2)
    maps = BortBacktracking(threshold=2.0).explain(task)
    for row, image in enumerate(task.images):
        patches = network.patch_embed(2 * image[None] - 1).detach().requires_grad_()  # (1, 5 · columns, 12)
        top = network.blocks[0](network._pos_embed(patches))[0, -5 * columns :]
        expected = torch.zeros(shape[1:])
        for channel in range(12):
            i, j = divmod(top[:, channel].argmax().item(), columns)
            value = top[i * columns + j, channel]
            if value <= 0 or i in (0, 4) or j in (0, columns - 1):
                continue
            (slopes,) = torch.autograd.grad(value, patches, retain_graph=True)
            pixels = slopes[0] @ network.patch_embed.proj.weight.detach().flatten(1)  # (5 · columns, 16)
            trace = pixels.view(5, columns, 4, 4).transpose(1, 2).reshape(shape[1:]).abs()
            expected += value.item() * (trace > 2 * trace.mean())
        assert expected.max() > 0
        torch.testing.assert_close(maps[row], expected / expected.max(), atol=1e-5, rtol=0)


def test_the_label_does_not_matter(convolutional):
    task = task_for(convolutional)
    other = task.replace(labels=(task.labels + 1) % 4)
    assert torch.equal(BortBacktracking().explain(task), BortBacktracking().explain(other))


# ---- the budget ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "budget", "passes"),
    [({}, 500, 22), ({}, 19, 19), ({"channels": 5}, 500, 7), ({"channels": 5}, 7, 7)],
)
def test_it_costs_the_record_the_empty_trace_and_one_trace_a_channel(convolutional, settings, budget, passes):
    task = task_for(convolutional, budget=budget)
    BortBacktracking(**settings).explain(task)
    assert task.model.passes.total == 3 * passes


def test_a_block_costs_more_passes_and_the_budget_pays_for_fewer_channels():
    model = wrapped(seeded(lambda: small_vit((1, 20, 20), 4, width=24, depth=2, heads=2)), (1, 20, 20), "blocks.1")
    dear = BackProjection(model, "top").passes
    assert dear > 1
    BortBacktracking().explain(task_for(model, count=2, budget=1 + 20 * dear + dear - 1))
    assert model.passes.total == 2 * (1 + 20 * dear)  # 19 of 24 channels


def test_with_a_smaller_budget_the_strongest_channels_are_the_ones_traced(convolutional):
    short = BortBacktracking().explain(task_for(convolutional, budget=2 + 6))
    assert torch.equal(short, BortBacktracking(channels=6).explain(task_for(convolutional)))


def test_too_small_a_budget_is_a_reason_to_skip(convolutional):
    for method, needed in ((BortBacktracking(), 18), (BortBacktracking(channels=5), 7)):
        short = method.why_not(task_for(convolutional, budget=needed - 1))
        assert short == f"needs {needed} passes an image, the budget is {needed - 1}"
        assert method.why_not(task_for(convolutional, budget=needed)) is None
    few = stamps([1.0] * 4, 14)
    assert BortBacktracking().why_not(task_for(few, budget=5)) == "needs 6 passes an image, the budget is 5"
    assert few.passes.total == convolutional.passes.total == 0


def test_an_overrun_leaves_the_subject_as_it_was(convolutional):
    task = task_for(convolutional)
    before = BortBacktracking().explain(task)
    task.model.passes = PassCounter(limit=10)
    with pytest.raises(BudgetExceeded):
        BortBacktracking().explain(task)
    task.model.passes = PassCounter()
    assert torch.equal(BortBacktracking().explain(task), before)


# ---- other reasons to skip -----------------------------------------------------------------------------------------


def test_a_tap_that_is_not_there_is_a_reason_to_skip(convolutional):
    reason = BortBacktracking(tap="layer9").why_not(task_for(convolutional))
    assert reason == "needs the tap 'layer9', the network has top, penultimate"


def test_a_network_without_a_way_back_is_a_reason_to_skip():
    class Squared(nn.Module):
        def forward(self, inputs):
            return inputs.square()

    network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), Squared()), nn.Flatten(), nn.Linear(4 * 36, 4))
    reason = BortBacktracking().why_not(task_for(wrapped(network, (1, 8, 8), "0")))
    assert reason.startswith("cannot follow small back")


# ---- against chance ------------------------------------------------------------------------------------------------


def test_maps_of_real_digits_beat_chance(digits_classifier, digits):
    task = task_for(digits_classifier, images=digits[0][1200:]).replace(labels=digits[1][1200:])
    traced, chance = BortBacktracking(tap="block1").explain(task), RandomMap().explain(task)
    for metric, sign in ((deletion_auc, -1), (insertion_auc_zero, 1)):
        ours, theirs = (
            metric(maps=maps, real=task.images, labels=task.labels, target=task.model) for maps in (traced, chance)
        )
        gain = sign * (ours - theirs)
        assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5  # standard errors of the mean
