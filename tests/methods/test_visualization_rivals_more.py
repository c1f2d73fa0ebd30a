"""DeepInversion, feature accentuation and Plug-In Inversion: their losses by other means, starts, stages, budgets."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bench import registry
from bench._batch_norm import watched
from bench.contract import Diverged, PassCounter, SetupError, Skip, VisualizationTask
from bench.zoo.classifier import Classifier
from methods.visualization.deep_inversion import DeepInversion, neighbour_lengths
from methods.visualization.feature_accentuation import FeatureAccentuation
from methods.visualization.plug_in_inversion import PlugInInversion, framed, middle
from tests import toys

RIVALS = [DeepInversion(), FeatureAccentuation(), PlugInInversion()]
each_rival = pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: type(rival).__name__)
each_kind = pytest.mark.parametrize(("kind", "tap"), [("class", None), ("channel", "block1"), ("channel", "block2")])
SHAPES = [(1, 28, 28), (3, 7, 12), (1, 12, 7), (3, 9, 5)]


def numbers(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_for(model, *, kind="class", tap=None, count=8, budget=21, seed=0, references=None, labels=None, targets=None):
    references = numbers(40, *model.image_shape, seed=9) if references is None else references
    return VisualizationTask(
        model=model,
        places=torch.arange(count),
        seed=seed,
        budget=budget,
        kind=kind,
        tap=tap,
        targets=torch.arange(count) % 8 if targets is None else torch.tensor(targets),
        references=references,
        reference_labels=torch.arange(len(references)) % 10 if labels is None else labels,
    )


def look(method, task):
    return method.visualize(task.replace(fitted=method.fit(task)) if hasattr(method, "fit") else task)


def wrap(network, shape, *, taps=None, classes=None, mean=0.0, std=1.0):
    return Classifier(
        network,
        name="made",
        image_shape=shape,
        num_classes=classes or network[-1].out_features,
        mean=[mean] * shape[0],
        std=[std] * shape[0],
        taps=taps or {},
    )


def remembering(channels, mean=0.3, variance=2.0, affine=False):
    layer = nn.BatchNorm2d(channels, affine=affine)
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(variance)
    return layer


def convolutional(shape, first=None, second=None):
    """BatchNorm, convolution, ReLU, BatchNorm, pool, logits; weights from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            remembering(shape[0]) if first is None else first,
            nn.Conv2d(shape[0], 8, 3, padding=1),
            nn.ReLU(),
            remembering(8) if second is None else second,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        )
    return wrap(network, shape, taps={"first": "0", "wide": "3"}, mean=0.5, std=0.5)


def linear(shape, weights=None, scale=1.0):
    classes = 10 if weights is None else len(weights)
    head = nn.Linear(math.prod(shape), classes, bias=False)
    with torch.no_grad():
        head.weight.copy_(scale * (torch.randn(classes, math.prod(shape), generator=torch.Generator().manual_seed(0))
                                   if weights is None else weights.flatten(1)))  # fmt: skip
    return wrap(nn.Sequential(nn.Flatten(), head), shape)


# ---- what all three keep to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rival",
    [*RIVALS[:2], PlugInInversion(step_size=0.1, noise=1.0)],
    ids=lambda rival: type(rival).__name__,
)
@each_kind
def test_activation_rises_above_its_start(digits_classifier, digits, rival, kind, tap):
    """Plug-In Inversion with wide noise and large steps: near grey many of this network's channels are dead."""
    images, labels = (part[:40] for part in digits)
    task = task_for(digits_classifier, kind=kind, tap=tap, budget=126, references=images, labels=labels)
    if isinstance(rival, FeatureAccentuation):
        start = images[rival.fit(task).chosen]
    else:
        start = (0.5 + 0.5 * task.noise()).clamp(0, 1)
    gain = task.activation(look(rival, task)) - task.activation(start)
    assert gain.median() > 0.1


@pytest.mark.parametrize("rival", RIVALS[1:], ids=lambda rival: type(rival).__name__)
@each_kind
def test_an_image_alone_comes_out_as_in_a_batch(digits_classifier, rival, kind, tap):
    task = task_for(digits_classifier, kind=kind, tap=tap)
    ready = task.replace(fitted=rival.fit(task)) if hasattr(rival, "fit") else task
    together = rival.visualize(ready)
    for row in (0, 7):
        alone = rival.visualize(ready.replace(places=task.places[row, None], targets=task.targets[row, None]))
        assert (together[row] - alone[0]).abs().max() <= 1e-5


@each_rival
def test_seeds_decide_the_images(digits_classifier, rival):
    one, same, other = (look(rival, task_for(digits_classifier, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert (one - other).abs().flatten(1).amax(1).min() > 1e-3


@pytest.mark.parametrize(
    ("rival", "kind", "forward", "backward"),
    [
        (DeepInversion(), "class", 80, 80),
        (DeepInversion(), "channel", 80, 80),
        (PlugInInversion(copies=2), "class", 80, 80),  # 5 steps of 4 passes
        (PlugInInversion(copies=3), "channel", 72, 72),  # 3 steps of 6
        (FeatureAccentuation(), "class", 72, 72),  # 2 to begin with, 4 steps of 4
        (FeatureAccentuation(), "channel", 96, 56),  # 40 references, 2 an image to begin with, 3 steps of 4
        (FeatureAccentuation(tap="pixels"), "class", 80, 80),
        (FeatureAccentuation(pull=0.0), "class", 80, 80),
        (FeatureAccentuation(candidates=8), "channel", 80, 72),  # 8 references, 2, 4 steps of 4
    ],
    ids=repr,
)
def test_the_whole_budget_goes_into_steps_and_no_more(digits_classifier, rival, kind, forward, backward):
    digits_classifier.passes = PassCounter(limit=8 * 21)
    look(rival, task_for(digits_classifier, kind=kind, tap="block1" if kind == "channel" else None, budget=21))
    assert (digits_classifier.passes.forward, digits_classifier.passes.backward) == (forward, backward)


@pytest.mark.parametrize(
    ("rival", "kind", "needed"),
    [
        (DeepInversion(), "class", 2),
        (PlugInInversion(copies=3), "class", 6),
        (FeatureAccentuation(), "class", 6),
        (FeatureAccentuation(tap="pixels"), "class", 2),
        (FeatureAccentuation(), "channel", 11),  # 40 references for 8 images
    ],
    ids=repr,
)
def test_too_small_a_budget_is_a_reason_to_skip_and_the_smallest_one_runs(digits_classifier, rival, kind, needed):
    task = task_for(digits_classifier, kind=kind, tap="block1" if kind == "channel" else None, budget=needed - 1)
    assert rival.why_not(task) == f"needs {needed} passes an image, the budget is {needed - 1}"
    enough = task.replace(budget=needed)
    assert rival.why_not(enough) is None
    seed = look(rival, enough.replace(budget=0))
    assert (look(rival, enough) - seed).abs().max() > 1e-4


@each_rival
@pytest.mark.parametrize("shape", [*SHAPES, (3, 64, 64)], ids=str)
def test_pictures_may_have_any_size_and_number_of_colours(rival, shape):
    for kind, tap in (("class", None), ("channel", "wide")):
        task = task_for(convolutional(shape), kind=kind, tap=tap, count=2, budget=28, targets=[0, 1])
        assert rival.why_not(task) is None
        images = look(rival, task)
        assert images.shape == (2, *shape) and images.dtype == torch.float32 and not images.requires_grad
        assert images.min() >= 0 and images.max() <= 1
        assert images.std() > 0


@pytest.mark.parametrize(
    "rival",
    [DeepInversion(statistics=0.0), FeatureAccentuation(tap="pixels"), PlugInInversion()],
    ids=lambda rival: type(rival).__name__,
)
def test_numbers_that_are_not_finite_are_called_diverged(rival):
    broken = linear((1, 8, 8), weights=torch.full((2, 1, 8, 8), torch.nan))
    with pytest.raises(Diverged, match="2 of 2 images are not finite"):
        look(rival, task_for(broken, count=2, targets=[0, 1]))


# ---- DeepInversion -------------------------------------------------------------------------------------------------


def distance_by_loops(layer, entered, weight=1.0):
    means, variances = [], []
    for values in entered.double().numpy().swapaxes(0, 1):
        flat = values.ravel().tolist()
        means.append(sum(flat) / len(flat))
        variances.append(sum((number - means[-1]) ** 2 for number in flat) / len(flat))
    off = [math.dist(own, known.tolist()) for own, known in
           ((means, layer.running_mean), (variances, layer.running_var))]  # fmt: skip
    return weight * sum(off)


@pytest.mark.parametrize("count", [3, 8])
def test_the_distance_is_that_of_the_definition_whatever_fills_the_batch(count):
    model, images = convolutional((3, 6, 5)), numbers(count, 3, 6, 5, seed=3)
    task = task_for(model, count=count)
    method = DeepInversion(first_layer=10.0)
    with watched(model) as seen, torch.no_grad():
        model(images)
        found = method._distance(task.replace(fitted=method.fit(task)), seen)
    inside = 2 * images - 1
    with torch.no_grad():
        deep = model.network[2](model.network[1](model.network[0](inside)))
    wanted = distance_by_loops(model.network[0], inside, 10.0) + distance_by_loops(model.network[3], deep)
    assert found.item() == pytest.approx(wanted, rel=1e-4)


def test_layers_that_remember_nothing_do_not_count_and_the_first_that_does_is_the_first():
    model = convolutional((3, 6, 5), first=nn.BatchNorm2d(3))
    task, method = task_for(model, count=8), DeepInversion(first_layer=10.0)
    images = numbers(8, 3, 6, 5)
    with watched(model) as seen, torch.no_grad():
        model(images)
        found = method._distance(task.replace(fitted=method.fit(task)), seen)
        deep = model.network[2](model.network[1](model.network[0](2 * images - 1)))
    assert found.item() == pytest.approx(distance_by_loops(model.network[3], deep, 10.0), rel=1e-4)


@pytest.mark.parametrize("kind", ["class", "channel"])
def test_the_first_step_goes_against_the_gradient_of_the_written_loss(kind):
    """Adam's first step has the step size and the gradient's sign."""
    model = convolutional((2, 6, 6))
    tap = "wide" if kind == "channel" else None
    settings = {"statistics": 0.7, "first_layer": 3.0, "smoothness": 0.02, "length": 0.05}
    method = DeepInversion(**settings, jitter=0.0, warmup=0.0, step_size=1e-3, clip=False)
    task = task_for(model, kind=kind, tap=tap, budget=2, seed=4)
    start = (0.1 * task.noise()).requires_grad_()  # nothing is cut to [0, 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisualizationTask, "noise", lambda self: start.detach().clone())
        moved = 2 * look(method, task) - 1 - start.detach()

    passing, loss = start, torch.zeros(())
    for place, module in enumerate(model.network):
        if isinstance(module, nn.BatchNorm2d):
            flat = passing.transpose(0, 1).flatten(1)
            own = (flat.mean(1) - module.running_mean).square().sum().sqrt()
            own = own + (flat.var(1, unbiased=False) - module.running_var).square().sum().sqrt()
            loss = loss + 0.7 * (3.0 if place == 0 else 1.0) * own
        passing = module(passing)
        if place == 3 and kind == "channel":
            loss = loss - sum(passing[b, c].mean() for b, c in enumerate(task.targets)) / 8
            break
    if kind == "class":
        chances = passing.softmax(1)
        loss = loss - sum(chances[b, y].log() for b, y in enumerate(task.targets)) / 8
    for image in start:
        loss = loss + 0.05 * image.norm() / 8
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            here = [(i, j) for i in range(6 - down) for j in range(6) if 0 <= j + right < 6]
            steps = [(image[:, i + down, j + right] - image[:, i, j]).square().sum() for i, j in here]
            loss = loss + 0.02 * sum(steps).sqrt() / 8
    loss.backward()
    clear = start.grad.abs() > 1e-5 * start.grad.abs().max()
    assert clear.float().mean() > 0.95
    torch.testing.assert_close(moved[clear], -1e-3 * start.grad[clear].sign(), atol=2e-5, rtol=0.0)


def test_a_flat_picture_has_no_lengths_and_a_step_has_three_of_four():
    picture = torch.zeros(2, 1, 4, 4)
    picture[1, :, 2:] = 1.0  # 4 steps down, 3 to each lower side
    assert neighbour_lengths(picture).tolist() == pytest.approx([0.0, 2 + 2 * math.sqrt(3)])


def test_the_statistics_come_nearer_and_their_loss_is_why(digits_classifier):
    task = task_for(digits_classifier, count=40, budget=80, targets=[place % 10 for place in range(40)])

    def distance(images):
        with watched(digits_classifier) as seen, torch.no_grad():
            digits_classifier(images)
            return sum(distance_by_loops(layer, entered) for layer, entered in seen.of(len(images)))

    reached, control = (distance(look(DeepInversion(statistics=weight), task)) for weight in (1.0, 0.0))
    assert reached < 0.6 * control


def test_an_image_depends_on_its_batch_mates_through_the_statistics_alone(digits_classifier):
    task = task_for(digits_classifier, budget=4)
    alone = task.replace(places=task.places[:1], targets=task.targets[:1])
    for weight, equal in ((1.0, False), (0.0, True)):
        method = DeepInversion(statistics=weight, smoothness=0.0)
        assert torch.allclose(look(method, task)[:1], look(method, alone), atol=1e-5) == equal


def test_networks_without_statistics_are_no_case_for_it_but_for_the_control(linear_classifier):
    none = task_for(linear_classifier(numbers(10, 1, 4, 4)))
    assert DeepInversion().why_not(none) == "needs BatchNorm, tiny has none"
    assert registry.make_method("visualization/deep_inversion", "no_batch_norm").why_not(none) is None

    folded = remembering(3, 0.0, 1.0, affine=True), remembering(8, 0.0, 1.0, affine=True)
    for layer in folded:
        layer.bias.data.fill_(0.2)
    reason = "needs BatchNorm with statistics of training data, those of made are means of 0 and variances of 1"
    assert DeepInversion().why_not(task_for(convolutional((3, 6, 6), *folded))) == reason


def test_a_fresh_network_may_still_be_trained_but_is_skipped_when_its_cell_runs(tiny_classifier):
    task = task_for(tiny_classifier)
    assert DeepInversion().why_not(task) is None
    with pytest.raises(Skip, match="those of tiny are means of 0 and variances of 1"):
        DeepInversion().fit(task)


def test_a_channel_before_every_batch_norm_is_skipped():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), remembering(8), nn.Flatten(), nn.Linear(8 * 16, 10))
    task = task_for(wrap(network, (1, 6, 6), taps={"raw": "0"}), kind="channel", tap="raw")
    with pytest.raises(Skip, match="needs BatchNorm with statistics before raw, made has none there"):
        look(DeepInversion(), task)


# ---- feature accentuation ------------------------------------------------------------------------------------------


def test_without_steps_each_image_is_a_reference_of_its_class_of_its_own(digits_classifier, digits):
    images, labels = (part[:60] for part in digits)
    task = task_for(digits_classifier, count=20, budget=0, references=images, labels=labels, targets=[3, 5] * 10)
    shown = look(FeatureAccentuation(), task)
    turn = {3: [i for i in range(60) if labels[i] == 3], 5: [i for i in range(60) if labels[i] == 5]}
    for place, target in enumerate(task.targets.tolist()):
        own = images[turn[target][(place // 2) % len(turn[target])]]
        assert (shown[place] - own).abs().max() <= 0.01 + 1e-5


@pytest.mark.parametrize("tap", ["block1", "penultimate"])
def test_channels_start_from_the_references_that_drive_them_most(digits_classifier, digits, tap):
    images, targets = digits[0][:70], [4, 4, 1, 4, 1]
    task = task_for(digits_classifier, kind="channel", tap=tap, count=5, references=images, targets=targets)
    with torch.no_grad():
        seen = digits_classifier.features(images, tap).flatten(2 if tap == "block1" else 1)
    for target, places in ((4, (0, 1, 3)), (1, (2, 4))):
        driven = [float(values[target].mean()) for values in seen]
        best = sorted(range(70), key=lambda place: -driven[place])
        chosen = FeatureAccentuation().fit(task).chosen
        assert [driven[chosen[place]] for place in places] == pytest.approx([driven[b] for b in best[: len(places)]])
    assert FeatureAccentuation(candidates=3).fit(task).chosen.max() < 3


def test_channels_of_tokens_are_read_over_tokens():
    class Tokens(nn.Module):
        def forward(self, images):
            return images.flatten(2).mT  # (B, H · W, C)

    network = nn.Sequential(Tokens(), nn.Flatten(), nn.Linear(3 * 16, 10))
    task = task_for(wrap(network, (3, 4, 4), taps={"tokens": "0"}), kind="channel", tap="tokens", targets=[2] * 8)
    brightest = task.references[:, 2].mean((1, 2)).topk(8).indices
    assert torch.equal(FeatureAccentuation().fit(task).chosen, brightest)


def test_an_image_holds_on_to_its_reference_the_more_the_pull_weighs(digits_classifier, digits):
    images, labels = (part[:60] for part in digits)
    task = task_for(digits_classifier, budget=130, references=images, labels=labels)

    def away(pull):
        method = FeatureAccentuation(pull=pull, tap="block1")
        start = images[method.fit(task).chosen]
        ready = task if pull else task.replace(budget=64)  # equally many steps
        ends = (digits_classifier.features(pictures, "block1") for pictures in (look(method, ready), start))
        return torch.dist(*ends).item()

    assert away(3.0) < 0.8 * away(0.3) < 0.8 * away(0.0)


@pytest.mark.parametrize("tap", ["doubled", "pixels"])
def test_the_pull_has_no_units_neither_the_activations_nor_the_layers(tap):
    """Weights of the logit and of the layer may be as large as they like: the ratio of gradients takes them out."""

    class Times(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, images):
            return self.factor * images

    def shown(logit, layer):
        head = nn.Linear(3 * 36, 10, bias=False)
        with torch.no_grad():
            head.weight.copy_(logit / layer * (numbers(10, 3 * 36, seed=2) - 0.5))
        network = nn.Sequential(Times(layer), nn.Flatten(), head)
        task = task_for(wrap(network, (3, 6, 6), taps={"doubled": "0"}), count=4, budget=42)
        return look(FeatureAccentuation(tap=tap), task)

    once = shown(1.0, 1.0)
    torch.testing.assert_close(shown(50.0, 1.0), once, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(shown(1.0, 30.0), once, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_change_of_the_spectrum_is_the_inverse_transform_of_numpy(shape):
    channels, height, width = shape
    method, task = FeatureAccentuation(), task_for(convolutional(shape), count=2)
    task = task.replace(fitted=method.fit(task))
    change = numbers(2, channels, height, width // 2 + 1, 2, seed=5) - 0.5
    spectrum = change[..., 0].double().numpy() + 1j * change[..., 1].double().numpy()
    for row in range(height):
        for column in range(width // 2 + 1):
            frequency = math.hypot(min(row, height - row) / height, column / width)
            spectrum[:, :, row, column] /= max(frequency, 1 / max(height, width))
    moved = np.fft.irfft2(spectrum, s=(height, width), norm="ortho")
    start = numbers(2, *shape, seed=6) - 0.5
    logits = start.double().numpy() + np.einsum("dc,bchw->bdhw", task.fitted.matrix.double().numpy(), moved)
    np.testing.assert_allclose(method._picture(task, start, change), 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_crops_stay_within_the_picture_and_are_as_large_as_asked():
    pictures = torch.stack([torch.ones(40, 40), torch.arange(40.0).expand(40, 40)]).expand(200, 2, 40, 40)
    seen = FeatureAccentuation(smallest_crop=0.4, largest_crop=0.8)._cropped(pictures, numbers(200, 3))
    white, ramp = seen[:, 0, 1:-1, 1:-1], seen[:, 1, 20, 1:-1]  # half of the outermost pixels lies on the edge
    torch.testing.assert_close(white, torch.ones_like(white))
    shares = ramp.diff(dim=1).mean(1)  # on a ramp the step between pixels is the window's share
    assert 0.4 <= shares.min() < 0.42 and 0.78 < shares.max() <= 0.8
    middles = ramp.mean(1) - 19.5
    assert -12 < middles.min() < -8 and 8 < middles.max() < 12


def test_what_cannot_be_meant_is_told(digits_classifier):
    task = task_for(digits_classifier)
    with pytest.raises(SetupError, match=r"tap 'blok2' of tiny does not exist\n  nearest: block2, block1"):
        FeatureAccentuation(tap="blok2").why_not(task)
    empty = task.replace(references=task.references[:0], reference_labels=task.reference_labels[:0])
    assert FeatureAccentuation().why_not(empty) == "needs reference images to start from, the task has none"
    absent = task.replace(reference_labels=torch.full((40,), 5))
    assert FeatureAccentuation().why_not(absent) == "needs references of each class, there are none of class 0"


def test_the_record_says_where_each_image_started(digits_classifier):
    method, task = FeatureAccentuation(), task_for(digits_classifier, budget=21)
    report = method.report(task.replace(fitted=method.fit(task)))
    assert report == {"steps": 4, "tap": "block2", "references": list(range(8))}


# ---- Plug-In Inversion ---------------------------------------------------------------------------------------------


def shown_by(method, shape=(3, 32, 32), budget=28, count=2):
    """What the subject is shown, (steps, B, copies, C, H, W), and the picture in the end."""
    model, shown = linear(shape), []
    hook = model.network.register_forward_pre_hook(lambda network, args: shown.append(args[0].detach()))
    images = look(method, task_for(model, count=count, budget=budget, targets=range(count)))
    hook.remove()
    seen = torch.stack([part[: count * method.copies] for part in shown])  # without what fills the batch
    return seen.unflatten(1, (count, method.copies)), images


def test_steps_are_split_evenly_over_seven_sizes_and_the_last_ones_get_what_there_is():
    assert PlugInInversion()._schedule(21) == [(size, 3) for size in range(2, 9)]
    assert [steps for _, steps in PlugInInversion()._schedule(1)] == [0] * 6 + [1]
    for steps in range(40):
        parts = [part for _, part in PlugInInversion()._schedule(steps)]
        assert sum(parts) == steps and max(parts) - min(parts) <= 1


def test_a_small_picture_stands_in_the_middle_of_noise_that_is_new_in_each_step():
    still = PlugInInversion(step_size=0.0, colour_shift=0.0, jitter=0.0, copies=1)
    seen, _ = shown_by(still, budget=28)  # two steps a size
    for size in range(7):
        side = 4 * (size + 2)
        edge, one, other = (32 - side) // 2, seen[2 * size, 0, 0], seen[2 * size + 1, 0, 0]
        inside = slice(edge, edge + side)
        assert torch.equal(one[:, inside, inside], other[:, inside, inside])
        ring = torch.ones(32, 32, dtype=torch.bool)
        ring[inside, inside] = False
        assert ring.sum() == 32**2 - side**2
        assert (one != other)[:, ring].float().mean() > 0.9 or size == 6
        assert one.min() >= 0.4 and one.max() <= 0.6  # noise of width 0.2 around mid-grey


def test_centring_keeps_the_picture_and_zooming_stretches_it():
    still = {"step_size": 0.0, "colour_shift": 0.0, "jitter": 0.0, "copies": 1}
    seen, images = shown_by(PlugInInversion(**still, centring=1.0))
    assert torch.equal(middle(images, (8, 8)), middle(seen[0, :, 0], (8, 8)))
    seen, images = shown_by(PlugInInversion(**still, centring=0.0))
    small = middle(seen[0, :, 0], (8, 8)).mean((2, 3))
    assert (images.mean((2, 3)) - small).abs().max() < 0.01  # nothing but the small picture
    assert images.diff(dim=3).abs().mean() < 0.3 * seen[0].diff(dim=4).abs().mean()  # and soft


def test_copies_differ_in_colour_alone_and_within_the_bounds():
    seen, _ = shown_by(PlugInInversion(step_size=0.0, copies=4, colour_shift=0.3, first_size=8), budget=80)
    flat = seen.flatten(4).double()  # (steps, B, copies, C, P)
    centred = flat - flat.mean(4, keepdim=True)
    likeness = (centred[:, :, 1:] * centred[:, :, :1]).sum(4) / (
        centred[:, :, 1:].norm(dim=4) * centred[:, :, :1].norm(dim=4)
    )
    assert likeness.min() > 1 - 1e-6
    ratios = centred[:, :, 1:].norm(dim=4) / centred[:, :, :1].norm(dim=4)  # of exp(u), u within ±0.3
    assert math.exp(-0.6) <= ratios.min() < 0.75 and 1.3 < ratios.max() <= math.exp(0.6)
    brightness = flat.mean(4)
    assert 0.5 * math.exp(-0.3) - 0.31 < brightness.min() and brightness.max() < 0.5 * math.exp(0.3) + 0.31
    assert brightness.std((2, 3)).min() > 0.03


def test_the_canvas_is_shifted_in_a_circle():
    still, moved = (
        shown_by(PlugInInversion(step_size=0.0, colour_shift=0.0, copies=1, first_size=8, jitter=jitter), budget=40)[0]
        for jitter in (0.0, 0.125)
    )
    assert (still == still[0]).all()
    shifts = set()
    for step in moved[:, 0, 0]:
        found = [(i, j) for i in range(-4, 5) for j in range(-4, 5)
                 if torch.equal(step, torch.roll(still[0, 0, 0], (i, j), (1, 2)))]  # fmt: skip
        assert len(found) == 1
        shifts.update(found)
    assert len(shifts) > 10


@pytest.mark.parametrize("kind", ["class", "channel"])
def test_on_a_linear_network_the_first_step_is_the_gradients_sign(kind):
    weights = torch.randn(10, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    model = linear((2, 6, 5), weights)
    method = PlugInInversion(copies=1, colour_shift=0.0, jitter=0.0, first_size=8, step_size=0.01)
    task = task_for(model, budget=2)
    start = 0.4 + 0.2 * task.draws("start", 2, 6, 5, law="uniform")
    chances = model(start).softmax(1) - nn.functional.one_hot(task.targets, 10)
    slope = torch.einsum("bk,kchw->bchw", chances, weights)
    if kind == "channel":  # the penultimate layer is the picture itself: the channel is a pixel
        task = task.replace(kind="channel", tap="penultimate")
        slope = -nn.functional.one_hot(task.targets, 60).view(8, 2, 6, 5).float()
    torch.testing.assert_close(look(method, task), start - 0.01 * slope.sign(), atol=1e-5, rtol=0.0)


def test_framed_pictures_come_back_from_the_middle():
    frame, inner = numbers(2, 3, 9, 12), numbers(2, 3, 4, 5, seed=1)
    whole = framed(inner, frame)
    assert torch.equal(middle(whole, (4, 5)), inner)
    assert (whole != frame).sum() == inner.numel()
    assert torch.equal(middle(frame, (9, 12)), frame)


@pytest.mark.parametrize("settings", [{"copies": 0}, {"first_size": 9}, {"first_size": 0}, {"centring": 1.5}])
def test_plug_in_settings_that_cannot_be_meant_are_errors(settings):
    with pytest.raises(SetupError, match="copies should be 1 or more, first_size 1 to 8, centring 0 to 1"):
        PlugInInversion(**settings).why_not(toys.toy_task("visualization", "class"))
