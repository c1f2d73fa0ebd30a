"""VITAL of inner neurons: its loss given relevance by plain code, reference patches, passes, memory, bad requests."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.contract import Diverged, PassCounter, SetupError, Unsupported, VisualizationTask
from bench.execute.tracks import has_leftovers
from bench.relevance import Flow
from bench.zoo import networks
from bench.zoo.classifier import Classifier
from methods.visualization._distributions import RelevantFeatures
from methods.visualization.vital import Vital
from tests.methods.vital_tasks import Memory, fitted, part, steps_paid

PATHS = {"stem": "0", "s1": "2", "mid": "5"}  # tap → module
KINDS = ["lrp", "restricted", "guided"]


def vital(**settings):
    """Four patches of 4 pixels for each channel."""
    return Vital(**({"references": 4, "patch": 112} | settings))


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(160, 10),
        )  # fmt: skip
    network[6].weight.data.abs_()  # every channel of the top is driven by something
    return Classifier(
        network,
        name="made",
        image_shape=(3, 8, 8),
        num_classes=10,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        taps={"low": "2", "mid": "5", "top": "7"},
    )


def task_for(model, *, tap="top", targets=(2, 5, 2), budget=400, count=9, seed=0, **fields):
    references = torch.rand(count, *model.image_shape, generator=torch.Generator().manual_seed(1))
    return VisualizationTask(
        model=model,
        places=torch.arange(len(targets)),
        seed=seed,
        budget=budget,
        kind="channel",
        tap=tap,
        targets=torch.tensor(targets),
        references=fields.pop("references", references),
        reference_labels=torch.zeros(count, dtype=torch.int64),
        **fields,
    )


@pytest.fixture
def task(model):
    return task_for(model)


# ---- the specification, written a second time ----------------------------------------------------------------------


def features_of(model, images):
    """Tap → (n, C, D) of intensities, module by module."""
    seen, passing = {}, (images - 0.5) / 0.5
    for name, module in model.network.named_children():
        passing = module(passing)
        seen |= {tap: passing.flatten(2) for tap, path in PATHS.items() if path == name}
        if len(seen) == len(PATHS):
            return seen
    raise AssertionError


def relevance_of(model, images, channel, kind):
    flow = Flow(model, target="7", at=list(PATHS.values()), kind=kind)
    found = flow(images.detach()).relevance(torch.full((len(images),), channel))
    return {tap: found[path].flatten(2) for tap, path in PATHS.items()}


def masked(features, relevance):
    low, high = relevance.min(dim=2, keepdim=True)[0], relevance.max(dim=2, keepdim=True)[0]
    return features * ((relevance - low) / (high - low + 1e-6))


def official_tap_loss(features, relevance, of_references, relevance_of_references):
    """Spec 3.2 for one image: [n, C, 1] importance times [1, C, D] error, and the mean of it all."""
    targets = masked(of_references, relevance_of_references).sort(dim=2)[0].mean(0, keepdim=True)
    highest = relevance_of_references.max(dim=2, keepdim=True)[0]  # [n, C, 1]
    low, high = highest.min(dim=1, keepdim=True)[0], highest.max(dim=1, keepdim=True)[0]
    importance = (highest - low) / (high - low + 1e-6)
    error = (masked(features, relevance).sort(dim=2)[0] - targets) ** 2
    return (importance * error).mean()


def patches_by_slicing(task, learned, side=4):
    """The references that were chosen, enlarged."""
    across = (8 - side) // (side // 2) + 1
    cut = []
    for image, place in zip(learned["image"].tolist(), learned["patch"].tolist(), strict=True):
        down, right = (side // 2 * number for number in divmod(place, across))
        window = task.references[image][None, :, down : down + side, right : right + side]
        cut.append(F.interpolate(window, (8, 8), mode="bilinear"))
    return torch.cat(cut)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reference", ["crop", "image"])
def test_loss_and_gradient_are_the_official_ones_given_relevance(model, task, kind, reference):
    """The gradient too: so relevance and importance are constant in it."""
    memory, place = Memory(), torch.tensor([1])
    method = vital(taps="stem s1 mid", weights="0.1 1 3", relevance=kind, reference=reference)
    known, _, _ = memory.asked_by(method, task)
    image = (task.draws("some picture", 3, 8, 8, law="uniform")[:1]).requires_grad_()
    loss = method._loss((image - 0.5) / 0.5, known.eye(image, torch.tensor([5])), known, place)

    learned = memory.of_channel(5)
    references = task.references[learned["image"]] if reference == "image" else patches_by_slicing(task, learned)
    assert len(references) == 4
    again = image.detach().clone().requires_grad_()
    own, theirs = features_of(model, again), features_of(model, references)
    relevant, of_theirs = relevance_of(model, image, 5, kind), relevance_of(model, references, 5, kind)
    official = sum(
        weight * official_tap_loss(own[tap], relevant[tap], theirs[tap], of_theirs[tap])
        for tap, weight in (("stem", 0.1), ("s1", 1.0), ("mid", 3.0))
    )
    assert loss.item() == pytest.approx(official.item(), rel=1e-5)
    assert loss.item() > 0
    slope, gradient = torch.autograd.grad(loss.sum(), image)[0], torch.autograd.grad(official, again)[0]
    assert (slope - gradient).norm() <= 1e-5 * gradient.norm()


def test_without_relevance_all_features_count_alike(model, task):
    method, memory = vital(taps="stem s1 mid", weights="1 2 3", relevance="none"), Memory()
    known, _, _ = memory.asked_by(method, task)
    image = task.draws("some picture", 3, 8, 8, law="uniform")[:1]
    loss = method._loss(image, known.eye(image, torch.tensor([2])), known, torch.tensor([0]))
    own, theirs = features_of(model, image), features_of(model, patches_by_slicing(task, memory.of_channel(2)))
    official = sum(
        weight * ((own[tap].sort(dim=2)[0] - theirs[tap].sort(dim=2)[0].mean(0)) ** 2).mean()
        for tap, weight in (("stem", 1.0), ("s1", 2.0), ("mid", 3.0))
    )
    assert loss.item() == pytest.approx(official.item(), rel=1e-5)


def noise_losses(model, task, memory, channel, kind="lrp"):
    """Tap → mean loss of the noise that taps are weighed on."""
    noise = (task.draws("balance", 8, 3, 8, 8)[0] + 1) / 2
    references = patches_by_slicing(task, memory.of_channel(channel))
    own, theirs = features_of(model, noise), features_of(model, references)
    relevant, of_theirs = relevance_of(model, noise, channel, kind), relevance_of(model, references, channel, kind)
    return [
        sum(
            official_tap_loss(own[tap][n : n + 1], relevant[tap][n : n + 1], theirs[tap], of_theirs[tap]).item()
            for n in range(8)
        )
        / 8
        for tap in PATHS
    ]


def test_balanced_weights_make_all_taps_count_the_same_on_noise(model, task):
    memory = Memory()
    known, _, _ = memory.asked_by(vital(taps="stem s1 mid"), task)
    for place, channel in enumerate((2, 5)):
        losses = noise_losses(model, task, memory, channel)
        wanted = [3 / loss / sum(1 / other for other in losses) for loss in losses]
        assert known.weights[place].tolist() == pytest.approx(wanted, rel=1e-4)


def test_natural_weights_make_the_patches_lose_one_the_same_at_each_tap(model, task):
    memory = Memory()
    known, _, _ = memory.asked_by(vital(taps="stem s1 mid", weights="natural"), task)
    for place, channel in enumerate((2, 5)):
        references = patches_by_slicing(task, memory.of_channel(channel))
        theirs, relevant = features_of(model, references), relevance_of(model, references, channel, "lrp")
        losses = [
            sum(
                official_tap_loss(theirs[tap][n : n + 1], relevant[tap][n : n + 1], theirs[tap], relevant[tap]).item()
                for n in range(4)
            )
            / 4
            for tap in PATHS
        ]
        shares = [weight * loss for weight, loss in zip(known.weights[place].tolist(), losses, strict=True)]
        assert shares == pytest.approx([1 / 3] * 3, rel=1e-3)


# ---- what an image shows -------------------------------------------------------------------------------------------


def looked_at(features, relevance):
    """``Seen`` of made-up features and relevance (B, C, H, W)."""
    flow = SimpleNamespace(features={"path": features}, relevance=lambda targets: {"path": relevance})
    return RelevantFeatures(lambda images: flow, "lrp", {"tap": "path"})(torch.zeros(len(features)), None)


def test_masks_and_importance_by_definition():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 2, 4, generator=generator)
    relevance = torch.randn(2, 3, 2, 4, generator=generator)
    seen = looked_at(features, relevance)
    for image in range(2):
        rows = relevance[image].flatten(1).tolist()
        for channel, row in enumerate(rows):
            mask = [(one - min(row)) / (max(row) - min(row) + 1e-6) for one in row]
            wanted = [value * weight for value, weight in zip(features[image, channel].flatten().tolist(), mask)]  # noqa: B905
            assert seen.features["tap"][image, channel].tolist() == pytest.approx(wanted, rel=1e-5)
        highest = [max(row) for row in rows]
        spread = max(highest) - min(highest) + 1e-6
        assert seen.importance["tap"][image].tolist() == pytest.approx(
            [(one - min(highest)) / spread for one in highest], rel=1e-5
        )


def test_an_image_without_relevance_is_looked_at_as_it_is():
    features, relevance = torch.randn(2, 3, 2, 4), torch.rand(2, 3, 2, 4)
    relevance[1] = 0.0
    seen = looked_at(features, relevance)
    torch.testing.assert_close(seen.features["tap"][1], features[1].flatten(1))
    assert seen.importance["tap"][1].eq(0).all()
    assert not torch.equal(seen.features["tap"][0], features[0].flatten(1))


# ---- the pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_images_at_once_go_the_ways_of_each_alone(model, kind):
    method = vital(relevance=kind, shortlist=4)
    whole = task_for(model, targets=[n % 5 for n in range(16)])
    whole = fitted(method, steps_paid(method, whole, 10))
    together, clear = method.visualize(whole), method.describe(whole)["transparency"].clone()
    for n in (0, 6, 15):
        alone = part(whole, slice(n, n + 1))
        torch.testing.assert_close(method.visualize(alone)[0], together[n], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(method.describe(alone)["transparency"][0], clear[n], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_pictures_come_closer_and_the_subject_stays_as_it_was(model, task, kind):
    before = model.checksum()
    method = vital(relevance=kind, weights="equal")
    paid = fitted(method, steps_paid(method, task, 25))
    known, place = paid.fitted, torch.tensor([0, 1, 0])
    starts = ((task.noise() + 1) / 2).clamp(0, 1)
    shown = method.visualize(paid)
    assert shown.shape == (3, 3, 8, 8) and shown.min() >= 0 and shown.max() <= 1
    losses = [method._loss(2 * one - 1, known.eye(one, task.targets), known, place) for one in (starts, shown)]
    assert (losses[1] < losses[0]).all()
    assert model.checksum() == before
    assert not has_leftovers(model)


def test_the_report_says_the_activations_of_the_patches(model, task):
    method = vital()
    done = fitted(method, task)
    said = method.report(done)
    assert said["references"] == {"2": 4, "5": 4}
    for channel in (2, 5):
        best = []
        for image in task.references:  # every patch of every image
            windows = [image[None, :, i : i + 4, j : j + 4] for i in (0, 2, 4) for j in (0, 2, 4)]
            inside = torch.cat([F.interpolate(window, (8, 8), mode="bilinear") for window in windows]) * 2 - 1
            best.append(model.network[:8](inside)[:, channel].mean((1, 2)).max().item())
        assert said["patch_activations"][str(channel)] == pytest.approx(sorted(best, reverse=True)[:4], rel=1e-5)


@pytest.mark.parametrize(("tap", "taps"), [("layer2", ["stem", "s1"]), ("layer3", ["stem", "s1", "s2"])])
def test_channels_of_any_stage_of_a_residual_network(tap, taps):
    made = networks.untrained(
        "resnet20", num_classes=10, image_shape=(3, 16, 16), mean=[0.5] * 3, std=[0.5] * 3, seed=0
    )
    subject = networks.wrap(made, name="resnet20", num_classes=10, image_shape=(3, 16, 16))
    method = vital(references=2, shortlist=2)
    task = task_for(subject, tap=tap, targets=(1, 3), count=3)
    assert method.why_not(task) is None
    done = fitted(method, steps_paid(method, task, 2))
    assert list(method.report(done)["taps"]) == taps
    assert method.visualize(done).isfinite().all()


def test_channels_of_a_transformer_need_no_relevance():
    made = networks.untrained("deit_pico", num_classes=10, image_shape=(3, 8, 8), mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    subject = networks.wrap(made, name="deit_pico", num_classes=10, image_shape=(3, 8, 8))
    task = task_for(subject, tap="block6")
    assert vital().why_not(task) == "has no rule for attention"
    method = vital(relevance="none", prefix_tokens=False)
    assert method.why_not(task) is None
    done = fitted(method, steps_paid(method, task, 2))
    assert method.visualize(done).isfinite().all()
    assert list(method.report(done)["taps"]) == ["stem", "s1", "s2", "s3"]
    with pytest.raises(SetupError, match="block6 of deit_pico has no channel 96\n  it has 0 to 95"):
        method.why_not(task_for(subject, tap="block6", targets=(0, 96)))


# ---- passes --------------------------------------------------------------------------------------------------------

LOOKS = {"lrp": (2, 1), "restricted": (2, 1), "guided": (1, 1), "none": (1, 0)}  # forward and backward, without steps


@pytest.mark.parametrize("kind", LOOKS)
@pytest.mark.parametrize(("weights", "noise"), [("equal", 0), ("natural", 0), ("balanced", 8)])
@pytest.mark.parametrize(("budget", "shortlist"), [(130, 1000), (133, 5)])
def test_passes_are_what_is_said_and_never_above_the_budget(task, kind, weights, noise, budget, shortlist):
    method, passes = vital(relevance=kind, weights=weights, shortlist=shortlist), PassCounter(limit=3 * budget)
    task.model.passes, task = passes, task.replace(budget=budget)
    forward, backward = LOOKS[kind]
    found = 9 + 2 * min(shortlist, 9) * 9  # all references, and nine patches of those that are tried, for two channels
    looked_at = 2 * (4 + noise)
    done = fitted(method, task)
    assert (passes.forward, passes.backward) == (found + looked_at * forward, looked_at * backward)
    share, a_step = math.ceil(passes.total / 3), forward + backward + 1
    assert method._share_of_learning(task) == share
    assert method._passes_of_a_step(task) == a_step
    before, steps = passes.total, (budget - share) // a_step
    method.visualize(done)
    assert method.report(done)["steps"] == steps
    assert passes.total - before == 3 * steps * a_step
    assert passes.total <= 3 * budget
    assert method.why_not(task.replace(budget=share + a_step)) is None
    needed = f"needs {share + a_step} passes an image, the budget is {share + a_step - 1}"
    assert method.why_not(task.replace(budget=share + a_step - 1)) == needed


def test_fewer_patches_than_asked_for_cost_less(task):
    method = vital(references=50, allow_fewer=True, weights="equal")
    task.model.passes = passes = PassCounter()
    method.fit(task)
    assert passes.total == 9 + 2 * 9 * 9 + 2 * 9 * 3
    assert method._share_of_learning(task) == math.ceil(passes.total / 3)
    assert fitted(method, task).fitted.counts == [9, 9]


# ---- what is remembered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [{"weights": "natural"}, {"smoothness": 0.1, "jitter": 0}, {"step_size": 0.1, "warmup": 0.3}, {"clip": False}],
    ids=str,
)
def test_seeds_and_settings_of_the_loop_share_what_is_learned(task, other):
    memory = Memory()
    one, asked, learned = memory.asked_by(vital(), task)
    assert asked == learned and len(asked) == 3
    two, again, relearned = memory.asked_by(vital(**other), task.replace(seed=5, budget=999))
    assert again == asked and not relearned
    for tap in one.targets:
        assert torch.equal(one.targets[tap], two.targets[tap])
        assert torch.equal(one.importance[tap], two.importance[tap])
    assert two.scores == one.scores


def test_recalled_or_learned_the_pictures_are_the_same(task):
    memory, method = Memory(), vital()
    task = steps_paid(method, task, 3).replace(remember=memory)
    first = method.visualize(fitted(method, task))
    memory.learned = set()
    assert torch.equal(method.visualize(fitted(method, task)), first)
    assert not memory.learned


@pytest.mark.parametrize(
    "other",
    [
        {"relevance": "guided"},
        {"relevance": "none"},
        {"reference": "image"},
        {"references": 3},
        {"shortlist": 5},
        {"patch": 56},
        {"taps": "stem"},
    ],
    ids=str,
)
def test_what_decides_over_the_patches_is_not_shared_but_the_search_is(task, other):
    memory = Memory()
    _, asked, _ = memory.asked_by(vital(), task)
    _, others, learned = memory.asked_by(vital(**other), task)
    assert len(learned) == 2 and not learned & asked
    assert asked & others == {"largest activations of top"}


def test_other_taps_share_nothing(model, task):
    memory = Memory()
    _, asked, _ = memory.asked_by(vital(taps="stem"), task)
    _, others, _ = memory.asked_by(vital(taps="stem"), task_for(model, tap="mid"))
    assert not asked & others


def test_prefix_tokens_are_not_shared_with_those_that_leave_them_out():
    made = networks.untrained("deit_pico", num_classes=10, image_shape=(3, 8, 8), mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    subject, memory = networks.wrap(made, name="deit_pico", num_classes=10, image_shape=(3, 8, 8)), Memory()
    for with_prefix, tokens in ((True, 5), (False, 4)):
        method = vital(relevance="none", prefix_tokens=with_prefix, weights="natural")
        known, _, _ = memory.asked_by(method, task_for(subject, tap="block6"))
        assert known.targets["s1"].shape[2] == tokens


# ---- what cannot be done -------------------------------------------------------------------------------------------


def test_a_channel_without_a_tap_before_it_is_a_reason(model):
    one_tap = task_for(model, tap="mid", targets=(0, 1))  # only the stem and the map before the pool lie before it
    assert vital(taps="ends").why_not(task_for(model, tap="low", targets=(0, 1))) == (
        "needs a tap before low of made, there is none in use"
    )
    assert vital().why_not(one_tap) is None


def test_too_few_references_are_a_reason(task):
    assert vital(references=9).why_not(task) is None
    assert vital(references=10).why_not(task) == "needs 10 references, there are 9: lower references, or allow_fewer"
    reason = "needs 4 references, there are 3: lower references, or allow_fewer"
    assert vital(shortlist=3).why_not(task) == reason
    assert vital(shortlist=3, allow_fewer=True).why_not(task) is None
    for setting in ("shortlist", "patch", "references"):
        with pytest.raises(SetupError, match=f"{setting} should be 1 .*, got 0"):
            vital(**{setting: 0}).why_not(task)
    assert task.model.passes.total == 0


@pytest.mark.parametrize("wrong", [10, -1])
def test_the_channel_must_exist(task, wrong):
    with pytest.raises(SetupError, match=f"^top of made has no channel {wrong}\n  it has 0 to 9$"):
        vital().why_not(task.replace(targets=torch.tensor([0, 1, wrong])))


@pytest.mark.parametrize(("tap", "asked"), [("mid", "top"), ("mid", "mid"), ("low", "s1"), ("top", "s2")])
def test_taps_must_lie_before_the_channel(model, tap, asked):
    with pytest.raises(
        SetupError, match=f"tap '{asked}' of made is flat: .*, or does not lie before {tap}\n  there are"
    ):
        vital(taps=f"stem {asked}").why_not(task_for(model, tap=tap, targets=(0,)))


def test_a_network_without_a_rule_says_which_taps_it_has():
    made = networks.untrained("mlp", num_classes=10, image_shape=(3, 8, 8), mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    subject = networks.wrap(made, name="mlp", num_classes=10, image_shape=(3, 8, 8))
    reason = vital().why_not(task_for(subject, tap="hidden2"))
    assert reason == "has no tap rule for mlp; name some of its own taps: hidden1, hidden2"


def test_a_dead_channel_is_unsupported_and_no_noise_image(task):
    layer = task.model.network[6]
    layer.weight.data[5].zero_()
    layer.bias.data[5] = -1.0
    with pytest.raises(Unsupported, match="channel 5 of top is above 0 on none of 9 references: a dead neuron"):
        vital().fit(task)
    assert vital().visualize(fitted(vital(), part(task, slice(0, 1)))).isfinite().all()


def test_references_of_one_colour_give_finite_pictures(task):
    constant = task.replace(references=torch.rand(9, 3, 1, 1).expand(9, 3, 8, 8).clone())
    assert vital().visualize(fitted(vital(), constant)).isfinite().all()


def test_references_that_are_no_numbers_diverge_in_the_first_step(task):
    broken = task.replace(references=task.references * float("nan"))
    with pytest.raises(Diverged, match="the loss of 3 of 3 images is not finite, first in step 0"):
        vital().visualize(fitted(vital(), broken))


def test_a_patch_larger_than_a_picture_is_an_error(task):
    with pytest.raises(SetupError, match="patch should be 1 to 224, got 300"):
        vital(patch=300).why_not(task)


@pytest.mark.parametrize("relevance", ["lrp", "none"])
def test_what_is_for_a_gpu_is_for_classes_alone(task, relevance):
    reason = vital(relevance=relevance, autocast=True).why_not(task)
    assert reason == "has channels_last, autocast and compiled for classes alone"
