"""VITAL's eyes: where each family is tapped, the cut subject that is run there, patches of references, and units."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.contract import BudgetExceeded, PassCounter, Unsupported, VisualizationTask
from bench.execute.tracks import has_leftovers
from bench.zoo import networks
from bench.zoo.classifier import Classifier
from bench.zoo.weights import load_public
from methods.visualization._patches import Grid, best_patches, grid_of, largest_activations
from methods.visualization._tap_rules import taps_of
from methods.visualization._units import intensities, limits, unit
from methods.visualization._watched import Watched, positions, shapes_until

DATA = Path(os.environ.get("GLASSBENCH_DATA", "missing"))
needs_data = pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="needs GLASSBENCH_DATA with weights/")


def pictures(count, *shape, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def subject(network, shape, taps=None, mean=0.5, std=0.25, classes=0):
    return Classifier(
        network,
        name="made",
        image_shape=shape,
        num_classes=classes,
        mean=[mean] * shape[0],
        std=[std] * shape[0],
        taps=taps or {},
    )


# ---- taps of each family -------------------------------------------------------------------------------------------


def shape_only(name, side, classes):
    """The network without numbers: its shapes cost nothing."""
    with torch.device("meta"):
        made = networks.untrained(
            name, num_classes=classes, image_shape=(3, side, side), mean=[0.5] * 3, std=[0.5] * 3, seed=0
        )
    return subject(made.inner, (3, side, side), classes=classes).to("meta")


def tapped(model):
    """Tap → (path, shape of one image's features)."""
    found = shapes_until(model, "penultimate")
    return {tap: (path, tuple(found[path][1:])) for tap, path in taps_of(model.network).items()}


def tokens(stem, blocks, count, width, side):
    paths = [(path, (count, width)) for path in blocks]
    return dict(zip(("stem", "s1", "s2", "s3", "s4"), [(stem, (width, side, side)), *paths], strict=True))


def maps(*taps):
    return {f"s{n}" if n else "stem": (path, (c, side, side)) for n, (path, c, side) in enumerate(taps)}


RESNET_50 = maps(
    ("conv1", 64, 112), ("layer1", 256, 56), ("layer2", 512, 28), ("layer3", 1024, 14), ("layer4", 2048, 7)
)
DENSENET_121 = maps(
    ("features.conv0", 64, 112),
    ("features.denseblock1", 256, 56),
    ("features.denseblock2", 512, 28),
    ("features.denseblock3", 1024, 14),
    ("features.denseblock4", 1024, 7),
)
OFFICIAL = {  # the specification's table 2.1
    "resnet50.IMAGENET1K_V1": RESNET_50,
    "resnet50.a1_in1k": RESNET_50,
    "densenet121.IMAGENET1K_V1": DENSENET_121,
    "densenet121.ra_in1k": DENSENET_121,
    "convnext_base.IMAGENET1K_V1": maps(
        ("features.0", 128, 56),
        ("features.2.1", 256, 28),
        ("features.4.1", 512, 14),
        ("features.6.1", 1024, 7),
        ("features.7", 1024, 7),
    ),
    "convnext_base.fb_in1k": maps(
        ("stem", 128, 56),
        ("stages.1.downsample.1", 256, 28),
        ("stages.2.downsample.1", 512, 14),
        ("stages.3.downsample.1", 1024, 7),
        ("stages.3", 1024, 7),
    ),
    "vit_l_16.IMAGENET1K_V1": tokens(
        "conv_proj", [f"encoder.layers.encoder_layer_{n}" for n in (2, 9, 20, 23)], 197, 1024, 14
    ),
    "vit_l_32.IMAGENET1K_V1": tokens(
        "conv_proj", [f"encoder.layers.encoder_layer_{n}" for n in (2, 9, 20, 23)], 50, 1024, 7
    ),
    "vit_b_16.IMAGENET1K_V1": tokens(
        "conv_proj", [f"encoder.layers.encoder_layer_{n}" for n in (0, 4, 8, 11)], 197, 768, 14
    ),
    "deit_tiny_patch16_224.fb_in1k": tokens(
        "patch_embed.proj", [f"blocks.{n}" for n in (0, 4, 8, 11)], 197, 192, 14
    ),
    "deit_tiny_distilled_patch16_224.fb_in1k": tokens(
        "patch_embed.proj", [f"blocks.{n}" for n in (0, 4, 8, 11)], 198, 192, 14
    ),
    "googlenet.IMAGENET1K_V1": maps(
        ("conv1.conv", 64, 112), ("conv3", 192, 56), ("inception3b", 480, 28), ("inception4e", 832, 14),
        ("inception5b", 1024, 7),
    ),
    "mobilenet_v2.IMAGENET1K_V1": maps(
        ("features.0.0", 32, 112), ("features.3", 24, 56), ("features.6", 32, 28), ("features.13", 96, 14),
        ("features.18.2", 1280, 7),
    ),
    "squeezenet1_1.IMAGENET1K_V1": maps(
        ("features.0", 64, 111), ("features.4", 128, 55), ("features.7", 256, 27), ("features.12", 512, 13)
    ),
}  # fmt: skip
SMALL = {  # its second table, on 32 pixels
    "resnet20": maps(("conv1", 16, 32), ("layer1", 16, 32), ("layer2", 32, 16), ("layer3", 64, 8)),
    "resnet56": maps(("conv1", 16, 32), ("layer1", 16, 32), ("layer2", 32, 16), ("layer3", 64, 8)),
    "resnet18": maps(
        ("conv1", 64, 32), ("layer1", 64, 32), ("layer2", 128, 16), ("layer3", 256, 8), ("layer4", 512, 4)
    ),
    "vgg16_bn": maps(
        ("stage1.0", 64, 32), ("stage1.5", 64, 32), ("stage2.5", 128, 16), ("stage3.8", 256, 8), ("stage4.8", 512, 4),
        ("stage5.8", 512, 2),
    ),
    "cnn": maps(("block1.0", 32, 32), ("block2.0", 64, 16), ("block3.0", 128, 8)),
    "deit_pico": tokens("patch_embed.proj", [f"blocks.{n}" for n in (1, 2, 4, 5)], 65, 96, 8),
    "deit_tiny": tokens("patch_embed.proj", [f"blocks.{n}" for n in (0, 4, 8, 11)], 65, 192, 8),
    "mlp": {},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize("name", OFFICIAL)
def test_taps_at_224_pixels(name):
    assert tapped(shape_only(name, 224, 1000)) == OFFICIAL[name]


@pytest.mark.parametrize("name", SMALL)
def test_taps_at_32_pixels(name):
    assert tapped(shape_only(name, 32, 10)) == SMALL[name]


@needs_data
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet20.akamaster", [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("vit_d6w128p4.smmk47", [(128, 8, 8), *[(65, 128)] * 4]),
        ("resnet18_trunk.torchvision_layer3", [(64, 112, 112), (64, 56, 56), (128, 28, 28), (256, 14, 14)]),
        ("squeezenet1_1.caffe", [(64, 111, 111), (128, 55, 55), (256, 27, 27), (512, 13, 13)]),
        ("mobilenet_v2.keras_int8", [(32, 112, 112), (24, 56, 56), (32, 28, 28), (96, 14, 14), (1280, 7, 7)]),
        ("googlenet.bvlc_caffe", [(64, 112, 112), (192, 56, 56), (480, 28, 28), (832, 14, 14), (1024, 7, 7)]),
    ],
)
def test_taps_of_public_networks(name, shapes):
    model = load_public(name, DATA)
    rule = taps_of(model.network)
    seen = Watched(model, list(rule.values()))(pictures(1, *model.image_shape))
    assert [tuple(seen[path].shape[1:]) for path in rule.values()] == shapes


def test_a_plain_stack_is_tapped_at_its_first_convolution_before_each_loss_of_size_and_at_its_end():
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    ]
    assert taps_of(nn.Sequential(*layers)) == {"stem": "0", "s1": "1", "s2": "4", "s3": "6"}
    layers[0] = nn.Conv2d(3, 4, 3, stride=2, padding=1)  # maps of the size of a strided stem are left out
    assert taps_of(nn.Sequential(*layers)) == {"stem": "0", "s1": "4", "s2": "6"}


def test_a_network_without_a_rule_has_no_taps():
    assert taps_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 2))) == {}
    assert taps_of(nn.ModuleDict({"odd": nn.Conv2d(3, 3, 1)})) == {}


# ---- the subject, cut off ------------------------------------------------------------------------------------------


class Counted(nn.Module):
    """Knows how often it was run."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    def forward(self, values):
        self.runs += 1
        return values


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 5, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(5 * 4 * 4, 10),
        )
    return subject(network, (3, 8, 8), {"block1": "2", "block2": "4"}, classes=10)


def by_module(model, images, last):
    """Path → output, layer by layer."""
    passing, seen = model.normalise(images), {}
    for name, layer in model.network.named_children():
        passing = seen[name] = layer(passing)
        if name == last:
            break
    return seen


@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_what_modules_give_and_its_gradient_are_the_networks(model, count):
    images = pictures(count, 3, 8, 8).requires_grad_()
    seen, wanted = Watched(model, ["4", "0"])(images), by_module(model, images, "4")  # in whatever order
    assert set(seen) == {"0", "4"}
    for path, output in seen.items():
        torch.testing.assert_close(output, wanted[path])
    slopes = [torch.autograd.grad(sum(one[p].square().sum() for p in ("0", "4")), images)[0] for one in (seen, wanted)]
    torch.testing.assert_close(*slopes)


def test_passes_are_the_subjects_and_are_limited(model):
    watched, images = Watched(model, ["0", "4"]), pictures(3, 3, 8, 8)
    model.passes = PassCounter(limit=9)  # after the copy was made
    watched(images)
    assert (model.passes.forward, model.passes.backward) == (3, 0)
    watched(images.requires_grad_())["4"].sum().backward()
    assert (model.passes.forward, model.passes.backward) == (6, 3)
    with pytest.raises(BudgetExceeded):
        watched(images)


def test_nothing_behind_the_last_module_is_run():
    behind = Counted()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), behind)
    watched = Watched(subject(network, (3, 8, 8)), ["1", "0"])
    watched(pictures(2, 3, 8, 8))
    assert [module.runs for module in watched.cut.modules() if isinstance(module, Counted)] == [0]
    assert behind.runs == 0


def test_the_subject_stays_as_it_is(model):
    before, passes = model.checksum(), model.passes
    kept = {name: id(module) for name, module in model.named_modules()}
    Watched(model, ["0", "4"], channels_last=True, autocast=True)(pictures(2, 3, 8, 8).requires_grad_())["4"].sum()
    assert model.checksum() == before and model.passes is passes
    assert {name: id(module) for name, module in model.named_modules()} == kept
    assert not has_leftovers(model)
    assert model.network[0].weight.is_contiguous()
    torch.testing.assert_close(model(pictures(2, 3, 8, 8)), model.network(4 * pictures(2, 3, 8, 8) - 2))


def test_channels_last_gives_the_same_and_autocast_nearly(model):
    images = pictures(4, 3, 8, 8)
    plain = Watched(model, ["0", "4"])(images)
    last = Watched(model, ["0", "4"], channels_last=True)(images)
    low = Watched(model, ["0", "4"], autocast=True)(images)
    for path in plain:
        torch.testing.assert_close(last[path], plain[path], atol=1e-6, rtol=1e-5)
        assert low[path].dtype == torch.float32
        assert 0 < (low[path] - plain[path]).norm() / plain[path].norm() < 0.02


def test_what_is_compiled_is_the_network_cut_off(model, monkeypatch):
    given = []
    monkeypatch.setattr(torch, "compile", lambda network: given.append(network) or network)  # no compiler needed
    images = pictures(3, 3, 8, 8)
    seen = Watched(model, ["0", "4"], compiled=True)(images)
    for path, output in Watched(model, ["0", "4"])(images).items():
        torch.testing.assert_close(seen[path], output)
    (cut,) = given
    assert not any(isinstance(module, nn.Linear) for module in cut.modules())


def test_a_network_that_cannot_be_traced_cannot_be_compiled(model):
    class Moody(nn.Sequential):
        def forward(self, values):
            return super().forward(values if values.sum() > 0 else -values)

    with pytest.raises(Unsupported, match=r"Moody cannot be cut for torch\.compile"):
        Watched(subject(Moody(nn.Conv2d(3, 4, 3)), (3, 8, 8)), ["0"], compiled=True)


def test_modules_are_listed_in_the_order_in_which_they_are_done(model):
    passes = model.passes = PassCounter(limit=0)
    assert shapes_until(model, "block2") == {
        "0": (1, 4, 8, 8), "1": (1, 4, 8, 8), "2": (1, 4, 8, 8), "3": (1, 5, 4, 4), "4": (1, 5, 4, 4)
    }  # fmt: skip
    assert list(shapes_until(model, "block2")) == ["0", "1", "2", "3", "4"]
    assert list(shapes_until(model, "block1")) == ["0", "1", "2"]
    assert list(shapes_until(model, "penultimate"))[-1] == "5"
    assert model.passes is passes and passes.total == 0
    assert not has_leftovers(model)


def test_of_a_module_used_twice_the_second_time_counts():
    shared = nn.MaxPool2d(2)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(shared, nn.Conv2d(4, 4, 1)), shared, nn.ReLU())
    found = shapes_until(subject(network, (3, 8, 8), {"end": "3"}), "end")
    assert list(found) == ["0", "1.1", "1", "1.0", "3"]
    assert found["1.0"] == (1, 4, 2, 2)


def test_positions_are_those_of_maps_and_tokens():
    shapes = [(1, 7, 4, 5), (1, 50, 96), (1, 9), (1,)]
    assert [positions(torch.Size(shape)) for shape in shapes] == [20, 50, 1, 1]


# ---- patches -------------------------------------------------------------------------------------------------------


def every_patch(image, side):
    """Row by row, each patch of one image at the image's size, by slicing."""
    _, height, width = image.shape
    return [
        F.interpolate(image[None, :, i : i + side, j : j + side], (height, width), mode="bilinear")[0]
        for i in range(0, height - side + 1, side // 2)
        for j in range(0, width - side + 1, side // 2)
    ]


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 4), (9, 12, 4), (12, 9, 5), (8, 8, 8)])
def test_a_grid_holds_every_patch_half_a_side_apart(height, width, side):
    images, grid = pictures(3, 2, height, width), Grid(side, height, width)
    wanted = [every_patch(image, side) for image in images]
    assert grid.count == len(wanted[0])
    torch.testing.assert_close(grid.all_of(images), torch.stack([one for each in wanted for one in each]))
    for place in range(grid.count):
        some = grid.some_of(images, torch.tensor([place, 0, grid.count - 1]))
        torch.testing.assert_close(some, torch.stack([wanted[0][place], wanted[1][0], wanted[2][-1]]))


@pytest.mark.parametrize(
    ("shape", "patch", "side", "count"),
    [((3, 224, 224), 64, 64, 36), ((3, 32, 32), 64, 9, 36), ((1, 28, 28), 64, 8, 36), ((3, 8, 16), 1, 2, 105)],
)
def test_patches_are_in_proportion_to_the_pictures(shape, patch, side, count):
    grid = grid_of(subject(nn.Sequential(nn.Conv2d(shape[0], 1, 1)), shape), patch)
    assert grid.side == side
    assert grid.count == count


def channel_task(model, references):
    return VisualizationTask(
        model=model,
        places=torch.arange(1),
        seed=0,
        budget=9,
        kind="channel",
        tap="block2",
        targets=torch.tensor([0]),
        references=references,
        reference_labels=torch.zeros(len(references), dtype=torch.int64),
    )


def test_the_largest_activation_is_over_all_positions(model):
    task = channel_task(model, pictures(70, 3, 8, 8))
    maps = by_module(model, task.references, "4")["4"]
    largest = largest_activations(task)
    for image, channel in itertools.product(range(70), range(5)):
        assert largest[image, channel].item() == pytest.approx(max(maps[image, channel].flatten().tolist()), rel=1e-5)
    assert model.passes.total == 70


@pytest.mark.parametrize("shortlist", [1, 4, 12, 1000])
def test_the_best_patch_of_each_shortlisted_image_is_found(model, shortlist):
    task, channel, grid = channel_task(model, pictures(12, 3, 8, 8, seed=3)), 2, Grid(4, 8, 8)
    largest = largest_activations(task)
    model.passes = PassCounter()
    found = best_patches(task, channel, largest, grid, shortlist)

    tallest = sorted(range(12), key=lambda image: -largest[image, channel].item())[:shortlist]
    wanted = []
    for image in tallest:
        patches = torch.stack(every_patch(task.references[image], 4))
        means = by_module(model, patches, "4")["4"][:, channel].flatten(1).mean(1).tolist()
        wanted.append((max(means), image, means.index(max(means))))
    wanted.sort(reverse=True)
    assert found["image"].tolist() == [image for _, image, _ in wanted]
    assert found["patch"].tolist() == [place for _, _, place in wanted]
    assert found["score"].tolist() == pytest.approx([score for score, _, _ in wanted], rel=1e-5)
    assert len(set(found["image"].tolist())) == len(tallest), "one patch an image"
    assert (model.passes.forward, model.passes.backward) == (9 * len(tallest), 0)


# ---- units ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std", "expected"), [(0.5, 0.225, 1.0), (0.1, 1.0, 1.0), (0.4, 1 / 255, 255 / 4.4)])
def test_a_unit_is_a_deviation_of_pictures(mean, std, expected):
    model = subject(nn.Sequential(nn.Conv2d(3, 1, 1)), (3, 4, 4), mean=mean, std=std)
    assert unit(model).flatten().tolist() == pytest.approx([expected] * 3, rel=1e-5)
    black, white = limits(model)
    for edge, value in ((black, 0.0), (white, 1.0)):
        assert ((value - mean) / std / expected) == pytest.approx(edge[0, 0].item(), rel=1e-5)
        torch.testing.assert_close(intensities(model, edge.expand(1, 3, 4, 4)), torch.full((1, 3, 4, 4), value))
    inside = pictures(2, 3, 4, 4)
    torch.testing.assert_close(intensities(model, inside), inside * expected * std + mean, atol=1e-5, rtol=1e-5)
