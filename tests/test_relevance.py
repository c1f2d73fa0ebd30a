"""Relevance: agreement with zennit, the rules as plain loops, conservation in every family, and who is refused."""

import copy
import itertools
import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from bench.contract import BudgetExceeded, PassCounter, SetupError
from bench.execute.tracks import has_leftovers
from bench.relevance import Flow, why_no_relevance
from bench.zoo import architectures, networks
from bench.zoo.architectures import Normalised
from bench.zoo.classifier import Classifier
from bench.zoo.datasets import open_dataset
from bench.zoo.weights import load_public
from tests import relevance_oracle as oracle

DATA = Path(os.environ.get("GLASSBENCH_DATA", "missing"))
needs_data = pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="needs GLASSBENCH_DATA with weights/")


def draw(seed):
    return torch.Generator().manual_seed(seed)


def numbers(seed, *shape):
    return torch.rand(shape, generator=draw(seed))


def randomised(network, seed=0):
    """Batch norms as training leaves them, not as they are built; biases too."""
    generator = draw(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def built(make, *args, **settings):
    with networks.private_random(0):
        return randomised(make(*args, **settings))


def subject(network, side, channels=3, name="subject"):
    """Taken as it is: with operations in place, if it has some. Its logits are of no interest."""
    return Classifier(
        network,
        name=name,
        image_shape=(channels, side, side),
        num_classes=0,
        mean=[0.5] * channels,
        std=[0.25] * channels,
        taps={},
    )


def bottlenecks(**settings):
    from torchvision.models.resnet import Bottleneck, ResNet

    return built(ResNet, Bottleneck, [2, 1, 1, 1], num_classes=10, width_per_group=16, **settings)


def apart(found, wanted):
    """Relative distance of two tensors."""
    return ((found - wanted).norm() / wanted.norm()).item()


# ---- against zennit ------------------------------------------------------------------------------------------------

STAGES = ("conv1", "layer1", "layer2", "layer3")


@pytest.mark.parametrize("target", ["layer4", "layer3", "layer2", "layer1"])
def test_a_torchvision_resnet_agrees_with_zennit(target):
    """In every stage, and with the same object used again."""
    network, images, channels = bottlenecks(), numbers(1, 3, 3, 64, 64), torch.tensor([5, 0, 17])
    at = STAGES[: (*STAGES, "layer4").index(target)]
    model = subject(network, 64)
    flow = Flow(model, target=target, at=at)
    inputs = model.normalise(images)

    def start(output):
        chosen = torch.zeros_like(output)
        for b, channel in enumerate(channels.tolist()):
            chosen[b, channel] = output[b, channel]
        return chosen

    wanted = oracle.by_zennit(copy.deepcopy(network), inputs, target, at, start)
    flow(images).relevance(channels.flip(0))
    found = flow(images).relevance(channels)
    assert found.keys() == wanted.keys()
    for path in at:
        assert found[path].shape == wanted[path].shape
        assert apart(found[path], wanted[path]) < 1e-5


def test_inputs_of_any_sign_and_biases_agree_with_zennit():
    network = built(
        architectures.stack,
        first=nn.Conv2d(3, 8, 3, 2, 1),
        norm=nn.BatchNorm2d(8),
        signed=nn.Conv2d(8, 12, 3, padding="same", groups=4),
        leaky=nn.LeakyReLU(0.2),
        dilated=nn.Conv2d(12, 6, 3, padding=2, dilation=2),
    )
    images, channels = numbers(2, 2, 3, 16, 16), torch.tensor([1, 4])
    model = subject(network, 16)

    def start(output):
        return output * F.one_hot(channels, 6)[:, :, None, None]

    wanted = oracle.by_zennit(copy.deepcopy(network), model.normalise(images), "dilated", ["first", "signed"], start)
    found = Flow(model, target="dilated", at=["first", "signed"])(images).relevance(channels)
    assert apart(found["first"], wanted["first"]) < 1e-5
    assert apart(found["signed"], wanted["signed"]) < 1e-5


# ---- against plain loops -------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """One of each: a padded shortcut, a joint, both max pools, a depthwise convolution and biases below 0."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.narrow = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.short = architectures.PaddedShortcut(1, 2)
        self.out = nn.ReLU()
        self.side = nn.Conv2d(3, 1, 1)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        pooled = self.pool(self.stem(images))
        block = self.norm(self.narrow(pooled))
        block += self.short(pooled)
        block = self.out(block)
        joined = torch.cat([block, F.max_pool2d(F.relu(self.side(block)), 3, 1, 1)], 1)
        return self.last(F.relu(self.deep(joined)))


def by_loops(tiny, image, relevance):
    """Relevance of the last layer's output → of the stem, the pool and the block, one image in float64."""
    stem = tiny.stem(image[None])
    pooled = tiny.pool(stem)
    main, short = tiny.norm(tiny.narrow(pooled)), tiny.short(pooled)
    block = (main + short).relu()
    side = tiny.side(block).relu()
    deep = tiny.deep(torch.cat([block, F.max_pool2d(side, 3, 1, 1)], 1)).relu()

    flow = oracle.convolution(relevance, deep[0], tiny.last.weight, 1, 0)
    flow = oracle.depthwise(flow, deep[0], tiny.deep.weight, 1, 1)
    from_side = oracle.averages(flow[3:], side[0], 3, 1, 1)
    of_block = flow[:3] + oracle.convolution(from_side, block[0], tiny.side.weight, 1, 0)
    inside, around = oracle.summands(of_block, main[0], short[0])
    of_pool = oracle.convolution(inside, pooled[0], tiny.narrow.weight, 2, 1)
    for c, y, x in itertools.product(range(2), range(2), range(2)):
        of_pool[c, 2 * y, 2 * x] += around[c, y, x]  # the third channel of the shortcut is padding
    return {"stem": oracle.averages(of_pool, stem[0], 2, 2, 0), "pool": of_pool, "out": of_block}


def test_every_rule_is_that_of_the_definition():
    tiny, images = built(Tiny).double(), numbers(3, 2, 1, 8, 8).double()
    model = subject(tiny, 8, channels=1).double()
    flowed = Flow(model, target="last", at=["stem", "pool", "out"])(images)
    channels = torch.tensor([1, 0])
    found = flowed.relevance(channels)
    for b, channel in enumerate(channels.tolist()):
        start = torch.zeros_like(flowed.output[b])
        start[channel] = flowed.output[b, channel]
        wanted = by_loops(tiny, model.normalise(images)[b], start)
        for path in wanted:
            torch.testing.assert_close(found[path][b], wanted[path], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("pool", "window", "padding"), [(nn.MaxPool2d(3, 2), 3, 0), (nn.MaxPool2d(3, 2, 1), 3, 1), (nn.MaxPool2d(2), 2, 0)]
)
def test_other_max_pools_share_in_their_own_windows(pool, window, padding):
    """Seven places give 3 or 4; averages of 2×2 stand only for a padded pool, and would give it 3, not 4."""
    network, images = built(architectures.stack, act=nn.ReLU(), pool=pool).double(), numbers(16, 1, 2, 7, 7).double()
    flowed = Flow(subject(network, 7, channels=2).double(), target="pool", at=["act"])(images)
    start = flowed.output[0] * torch.tensor([0.0, 1.0])[:, None, None]
    wanted = oracle.averages(start, flowed.features["act"][0], window, 2, padding)
    torch.testing.assert_close(flowed.relevance(torch.tensor([1]))["act"][0], wanted)


def test_restricted_relevance_starts_at_the_place_where_the_channel_stands_out_most():
    tiny, images = built(Tiny).double(), numbers(4, 3, 1, 8, 8).double()
    model, channels = subject(tiny, 8, channels=1).double(), torch.tensor([1, 0, 1])
    flowed = Flow(model, target="last", at=["out"], kind="restricted")(images)
    found = flowed.relevance(channels)["out"]
    for b, channel in enumerate(channels.tolist()):
        cosines = {
            (y, x): (flowed.output[b, channel, y, x] / flowed.output[b, :, y, x].norm()).item()
            for y, x in itertools.product(range(2), range(2))
        }
        y, x = max(cosines, key=cosines.get)
        start = torch.zeros_like(flowed.output[b])
        start[channel, y, x] = 1.0
        torch.testing.assert_close(found[b], by_loops(tiny, model.normalise(images)[b], start)["out"])


def test_two_branches_of_nothing_get_half_each():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
            self.sum = nn.Identity()

        def forward(self, images):
            return self.sum(self.left(images) + self.right(images))

    model, grey = subject(built(Split), 4, channels=1), torch.full((2, 1, 4, 4), 0.5)  # zeros after normalisation
    found = Flow(model, target="sum", at=["left", "right"], kind="restricted")(grey).relevance(torch.tensor([0, 1]))
    wanted = torch.zeros(2, 2, 4, 4)
    wanted[0, 0, 0, 0] = wanted[1, 1, 0, 0] = 0.5
    assert torch.equal(found["left"], wanted) and torch.equal(found["right"], wanted)


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return values.clamp(min=0)

    @staticmethod
    def backward(ctx, slope):
        (values,) = ctx.saved_tensors
        return slope * (slope > 0) * (values > 0)


class GuidedReLU(nn.Module):
    def forward(self, values):
        return _GuidedReLU.apply(values)


def test_guided_relevance_is_what_guided_rectifiers_give():
    network, images, channels = bottlenecks(), numbers(5, 2, 3, 64, 64), torch.tensor([3, 30])
    model, at = subject(network, 64), ["conv1", "layer1", "layer2"]
    guided = copy.deepcopy(network)
    for path, module in list(guided.named_modules()):
        if isinstance(module, nn.ReLU):
            guided.set_submodule(path, GuidedReLU())
    values = guided.conv1(model.normalise(images)).requires_grad_()
    layer1 = guided.layer1(guided.maxpool(guided.relu(guided.bn1(values))))
    layer2 = guided.layer2(layer1)
    mean = guided.layer3(layer2).mean((2, 3)).gather(1, channels[:, None]).sum()
    wanted = torch.autograd.grad(mean, [values, layer1, layer2])
    flow = Flow(model, target="layer3", at=at, kind="guided")
    with torch.no_grad():  # as references are seen
        flowed = flow(images)
    for _ in range(2):
        found = flowed.relevance(channels)
    for path, slope in zip(at, wanted, strict=True):
        assert apart(found[path], slope.relu()) < 1e-5 and not found[path].requires_grad


def test_a_guided_pass_leaves_the_losss_gradient_alone():
    network = bottlenecks()
    plain, watched = (numbers(6, 2, 3, 64, 64).requires_grad_() for _ in range(2))
    model = subject(network, 64)
    flowed = Flow(model, target="layer3", at=["layer2"], kind="guided")(watched)
    flowed.relevance(torch.tensor([1, 2]))
    flowed.features["layer2"].square().sum().backward()
    through(network, model.normalise(plain))["layer2"].square().sum().backward()
    torch.testing.assert_close(watched.grad, plain.grad, rtol=1e-5, atol=1e-3)


# ---- conservation --------------------------------------------------------------------------------------------------


def timm_network(name):
    import timm

    return built(timm.create_model, name, num_classes=10)


def torchvision_network(name):
    import torchvision

    return built(getattr(torchvision.models, name), num_classes=10)


def plain_vgg():
    from torchvision.models import vgg

    return built(vgg.make_layers, vgg.cfgs["A"])


def cifar(build, **settings):
    return built(build, (3, 32, 32), 10, **settings)


def folded_trunk():
    return architectures.without_batch_norm(built(architectures.resnet18_trunk))


FAMILIES = {
    "bottlenecks, torchvision": (64, bottlenecks, "layer4", STAGES),
    "resnet18, timm": (64, lambda: timm_network("resnet18"), "layer4", STAGES),
    "resnet26d, timm": (64, lambda: timm_network("resnet26d"), "layer4", ["conv1.0", *STAGES[1:]]),
    "resnet20": (
        32,
        lambda: cifar(architectures.small_resnet, widths=(16, 32, 64), blocks=3, projection=False),
        "layer3",
        STAGES[:3],
    ),
    "vgg16_bn": (32, lambda: cifar(architectures.vgg16_bn), "stage5", ["stage1.0", "stage1", "stage2", "stage4"]),
    "vgg11, torchvision": (32, plain_vgg, "18", ["0", "3", "8"]),
    "cnn": (32, lambda: cifar(architectures.cnn), "block3", ["block1.0", "block1", "block2"]),
    "googlenet": (64, lambda: built(architectures.googlenet), "inc5b", ["conv1", "stem", "inc3b", "inc4c"]),
    "squeezenet1_1": (64, lambda: built(architectures.squeezenet1_1), "features.12", ["features.0", "features.7"]),
    "mobilenet_v2": (
        64,
        lambda: built(architectures.mobilenet_v2_tensorflow),
        "features.17",
        ["features.0.0", "features.3", "features.10"],
    ),
    "mobilenet_v2, folded": (
        64,
        lambda: architectures.without_batch_norm(built(architectures.mobilenet_v2_tensorflow)),
        "features.13",
        ["features.0.0", "features.6"],
    ),
    "densenet121": (
        64,
        lambda: torchvision_network("densenet121"),
        "features.denseblock4",
        ["features.conv0", *(f"features.denseblock{place}" for place in (1, 2, 3))],
    ),
    "resnet18 trunk, folded": (64, folded_trunk, "layer3", STAGES[:3]),
}


def kept_shares(model, images, target, at, kind):
    """Path → (B,) the sum of its relevance by that of the start, for each image's most active channel."""
    flow = Flow(model, target=target, at=at, kind=kind)
    with torch.no_grad():
        flowed = flow(images)
    rows, channels = torch.arange(len(images)), flowed.output.mean((2, 3)).argmax(1)
    start = flowed.output[rows, channels].sum((1, 2)) if kind == "lrp" else torch.ones(len(images))
    assert (start > 0).all()
    return {path: found.sum((1, 2, 3)) / start for path, found in flowed.relevance(channels).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_little_relevance_is_lost_in_any_family(family):
    side, make, target, at = FAMILIES[family]
    model = subject(make(), side)
    for kind in ("lrp", "restricted"):
        for share in kept_shares(model, numbers(7, 2, 3, side, side), target, at, kind).values():
            assert share.min() > 0.8 and share.max() < 1.01


TRAINED = {
    "googlenet.bvlc_caffe": ("inc5b", ["conv1", "stem", "inc3b", "inc4c"]),
    "squeezenet1_1.caffe": ("features.12", ["features.0", "features.4", "features.7"]),
    "mobilenet_v2.keras_int8": ("features.17", ["features.0.0", "features.3", "features.6", "features.13"]),
    "resnet18_trunk.torchvision_layer3": ("layer3", ["conv1", "relu", "layer1", "layer2"]),
    "resnet20.akamaster": ("layer3", ["conv1", "act1", "layer1", "layer2"]),
    "resnet56.akamaster": ("layer3", ["conv1", "act1", "layer1", "layer2"]),
}


@needs_data
@pytest.mark.slow_data
@pytest.mark.parametrize("name", TRAINED)
def test_little_relevance_is_lost_in_trained_networks(name):
    model, (target, at) = load_public(name, DATA), TRAINED[name]
    data = open_dataset("imagenette" if model.image_shape[1] == 224 else "cifar10_exact5k", DATA)
    images = data.images("test", torch.tensor([0, 400])).float() / 255
    for kind in ("lrp", "restricted"):
        for share in kept_shares(model, images, target, at, kind).values():
            assert share.min() > 0.95 and share.max() < 1.01


def test_a_channel_that_is_dead_has_no_relevance_and_nothing_else_is_touched():
    network = bottlenecks()
    with torch.no_grad():
        network.layer2[-1].bn3.bias[4] = -1e6
    images = numbers(8, 2, 3, 64, 64)
    flowed = Flow(subject(network, 64), target="layer2", at=STAGES[:2])(images)
    alive = flowed.output[1].mean((1, 2)).argmax().item()
    for relevance in flowed.relevance(torch.tensor([4, alive])).values():
        assert not relevance[0].any() and relevance[1].any() and relevance.isfinite().all()


# ---- what is left alone --------------------------------------------------------------------------------------------


def small_subject():
    return networks.wrap(
        Normalised(
            cifar(architectures.small_resnet, widths=(8, 16), blocks=2, projection=False), (0.5,) * 3, (0.25,) * 3
        ),
        name="small",
        num_classes=10,
        image_shape=(3, 32, 32),
    )


@pytest.mark.parametrize("kind", ["lrp", "restricted", "guided"])
def test_an_image_does_not_depend_on_its_batch_mates_and_comes_out_the_same_again(kind):
    flow = Flow(small_subject(), target="layer2", at=["conv1", "layer1"], kind=kind)
    images, channels = numbers(9, 11, 3, 32, 32), torch.arange(11)
    together = flow(images).relevance(channels)
    again = flow(images).relevance(channels)
    flipped = flow(images.flip(0)).relevance(channels.flip(0))
    alone = flow(images[4:5]).relevance(channels[4:5])
    for path, relevance in together.items():
        assert len(relevance) == 11 and not relevance.requires_grad
        assert torch.equal(again[path], relevance)
        assert torch.equal(flipped[path].flip(0), relevance)
        assert torch.equal(alone[path][0], relevance[4])


@pytest.mark.parametrize("kind", ["lrp", "guided"])
def test_the_subject_is_as_before(kind):
    model, images = small_subject(), numbers(10, 2, 3, 32, 32)
    logits, before, modules = model(images), model.checksum(), [*model.network.modules()]
    flow = Flow(model, target="layer2", at=["layer1"], kind=kind)
    flowed = flow(images.requires_grad_())
    flowed.relevance(torch.tensor([0, 1]))
    flowed.features["layer1"].sum().backward()
    assert model.checksum() == before and [*model.network.modules()] == modules
    assert model.num_classes == 10 and not has_leftovers(model)
    assert torch.equal(model(images), logits)


def through(network, inputs):
    """A torchvision ResNet by hand, stage by stage."""
    seen = {"conv1": network.conv1(inputs)}
    values = network.maxpool(F.relu(network.bn1(seen["conv1"])))
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        seen[stage] = values = network.get_submodule(stage)(values)
    return seen


def test_features_and_their_gradient_are_those_of_the_plain_network():
    """Although torchvision's ResNet overwrites what it has computed."""
    network = bottlenecks()
    model, at = subject(network, 64), ["conv1", "layer1", "layer3"]
    plain, watched = (numbers(11, 3, 3, 64, 64).requires_grad_() for _ in range(2))
    with torch.no_grad():
        wanted = through(network, model.normalise(plain))
    flowed = Flow(model, target="layer4", at=at)(watched)
    for path in at:
        torch.testing.assert_close(flowed.features[path], wanted[path], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(flowed.output, wanted["layer4"], rtol=1e-5, atol=1e-4)
    relevance = flowed.relevance(torch.tensor([0, 7, 20]))
    sum((flowed.features[path] * relevance[path]).sum() for path in at).backward()
    seen = through(network, model.normalise(plain))
    sum((seen[path] * relevance[path]).sum() for path in at).backward()
    assert apart(watched.grad, plain.grad) < 1e-5
    assert all(module.inplace for module in network.modules() if isinstance(module, nn.ReLU))


def test_passes_are_counted_and_limited():
    model, images = small_subject(), numbers(12, 3, 3, 32, 32).requires_grad_()
    flow = Flow(model, target="layer2", at=["layer1"])
    model.passes = PassCounter(limit=16)  # the harness sets one of its own
    flowed = flow(images)
    assert (model.passes.forward, model.passes.backward) == (3, 0)
    flowed.relevance(torch.tensor([0, 1, 2]))
    assert (model.passes.forward, model.passes.backward) == (6, 3)
    flowed.features["layer1"].sum().backward()
    assert (model.passes.forward, model.passes.backward) == (6, 6)
    with pytest.raises(BudgetExceeded):
        flowed.relevance(torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("count", [3, 8])  # 8 images need no filling
def test_guided_passes_are_counted(count):
    model, images = small_subject(), numbers(13, count, 3, 32, 32).requires_grad_()
    flowed = Flow(model, target="layer2", at=["layer1"], kind="guided")(images)
    flowed.relevance(torch.arange(count))
    assert (model.passes.forward, model.passes.backward) == (count, count)
    flowed.features["layer1"].sum().backward()
    assert (model.passes.forward, model.passes.backward) == (count, 2 * count)


class Overwriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, images):
        short = self.act(self.first(images))
        return self.third(F.relu(self.second(short).add_(short), inplace=True).relu_())


def test_what_was_kept_is_not_overwritten():
    network, images = built(Overwriting), numbers(17, 2, 3, 8, 8)
    model = subject(network, 8)
    flowed = Flow(model, target="third", at=["first", "second"])(images)
    first = network.first(model.normalise(images))
    second = network.second(first.relu())
    torch.testing.assert_close(flowed.features["first"], first)
    torch.testing.assert_close(flowed.features["second"], second)
    torch.testing.assert_close(flowed.output, network.third((second + first.relu()).relu()))


def test_nothing_behind_the_target_is_computed():
    model = small_subject()
    flow = Flow(model, target="layer1", at=["conv1"])
    model.network.layer2.forward = lambda values: pytest.fail("the target lies before this")
    try:
        flow(numbers(14, 2, 3, 32, 32)).relevance(torch.tensor([0, 1]))
    finally:
        del model.network.layer2.forward
    assert not any("layer2" in name for name, _ in flow._cut.named_modules())


def test_relevance_is_in_full_precision_where_features_are_not():
    flow, images, channels = (
        Flow(small_subject(), target="layer2", at=["layer1"]),
        numbers(15, 2, 3, 32, 32),
        torch.arange(2),
    )
    with torch.autocast("cpu", torch.bfloat16):
        flowed = flow(images)
        rough = flowed.relevance(channels)["layer1"]
    assert flowed.output.dtype == torch.bfloat16 and rough.dtype == torch.float32
    assert apart(rough, flow(images).relevance(channels)["layer1"]) < 0.05
    start = flowed.output.float().sum((2, 3)).gather(1, channels[:, None])[:, 0]
    torch.testing.assert_close(rough.sum((1, 2, 3)), start, rtol=1e-3, atol=0)


# ---- who is refused ------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.out(F.relu(self.conv(F.relu(self.conv(images)))))


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.shift, self.second = (
            nn.Conv2d(3, 3, 1),
            nn.Parameter(torch.ones(1, 3, 1, 1)),
            nn.Conv2d(3, 3, 1),
        )

    def forward(self, images):
        return self.second(self.first(images) + self.shift)


class Choosy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        values = self.first(images)
        return self.second(values if values.mean() > 0 else -values)


class Multiplied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        values = self.first(images)
        return self.second(values * values.sigmoid())


def chain(middle):
    return architectures.stack(first=nn.Conv2d(3, 4, 3), middle=middle, second=nn.Conv2d(4, 4, 3))


def small_vit():
    return networks.network_card("deit_pico").build((3, 32, 32), 10)


def convnext():
    import timm

    return timm.create_model("convnext_atto", num_classes=10)


@pytest.mark.parametrize(
    ("make", "target", "at", "reason"),
    [
        (small_vit, "blocks.3", ["patch_embed"], "has no rule for attention"),
        (convnext, "stages.3", ["stem"], "has no rule for (LayerNorm|permute|GELU|mul)"),
        (Multiplied, "second", ["first"], "has no rule for (mul|sigmoid)"),
        (Shifted, "second", ["first"], "has no rule for add"),
        (Choosy, "second", ["first"], "cannot be traced by torch.fx: TraceError"),
        (Twice, "out", ["conv"], "uses conv 2 times in one pass, not once"),
        (lambda: chain(nn.SiLU()), "second", ["first"], "has no rule for SiLU"),
        (lambda: chain(nn.GroupNorm(2, 4)), "second", ["first"], "has no rule for GroupNorm"),
        (lambda: chain(nn.MaxPool2d(2, dilation=2)), "second", ["first"], "has no rule for MaxPool2d"),
        (lambda: chain(nn.ReLU()), "first", ["second"], "has second not before first: no relevance flows"),
        (lambda: chain(nn.ReLU()), "second", ["first", "second"], "has second not before second"),
        (
            lambda: chain(parametrizations.orthogonal(nn.Conv2d(4, 4, 1))),
            "second",
            ["first"],
            "has no rule for ParametrizedConv2d",
        ),
    ],
)
def test_networks_without_rules_are_refused_with_the_reason(make, target, at, reason):
    network = built(make)
    found = why_no_relevance(network, target=target, at=at)
    assert found is not None and re.match(reason, found)
    with pytest.raises(SetupError, match=reason):
        Flow(subject(network, 32), target=target, at=at)


def test_what_lies_outside_the_way_needs_no_rule():
    network = architectures.stack(
        before=nn.SiLU(), first=nn.Conv2d(3, 4, 3), act=nn.ReLU(), second=nn.Conv2d(4, 4, 3), behind=nn.GELU()
    )
    assert why_no_relevance(network, target="second", at=["first"]) is None
    assert why_no_relevance(network, target="behind", at=["first"]) == "has no rule for GELU"


def test_a_layer_that_does_not_exist_is_told_with_the_nearest():
    with pytest.raises(SetupError, match="no module 'layer9'\n  nearest: layer"):
        why_no_relevance(small_subject().network, target="layer2", at=["layer9"])
