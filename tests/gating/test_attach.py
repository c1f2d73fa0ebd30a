"""Where gates go in networks of every family, and that a network is what it was while they are all on."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
import torchvision.models as tv
from torch import nn

from bench.contract import SetupError, ShapeError
from bench.gating import (
    ControllingModule,
    FixedGate,
    attach,
    edited,
    gated_layers,
    multiply_adds,
    skipping,
    straight_through,
    watched,
)
from bench.gating.layers import fixed_to
from bench.zoo import architectures
from tests.gating.networks import FAMILIES, convolved, gated, head, moody, pictures, settled

ANY = pytest.mark.parametrize("family", FAMILIES)


def controlled(path, conv):
    return ControllingModule(conv.in_channels, conv.out_channels)


def ones(network):
    return edited(network, dict.fromkeys(gated_layers(network), torch.ones_like))


# ---- where gates go ------------------------------------------------------------------------------------------------

INCEPTION = [  # Szegedy et al. 2015, table 1: 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
]
SIX = sum(map(sum, INCEPTION))
SEVEN = SIX + sum(widths[4] for widths in INCEPTION)  # two 3×3 for each 5×5
CIFAR = (3, 32, 32)


def cifar_resnet(projection):
    return architectures.small_resnet(CIFAR, 10, widths=(16, 32, 64), blocks=3, projection=projection)


def torchvision_googlenet(transform):
    return tv.googlenet(aux_logits=False, init_weights=False, transform_input=transform)


@pytest.mark.parametrize(
    ("build", "gates", "bits", "ungated"),
    [
        (lambda: cifar_resnet(projection=False), 18, 672, ["conv1"]),
        (lambda: cifar_resnet(projection=True), 20, 672 + 32 + 64, ["conv1"]),
        (tv.resnet18, 19, 4736, ["conv1"]),
        (tv.resnet50, 52, 26496, ["conv1"]),
        (lambda: tv.vgg16(num_classes=3), 12, 4160, ["features.0"]),
        (lambda: tv.vgg16_bn(num_classes=3), 12, 4160, ["features.0"]),
        (lambda: architectures.vgg16_bn(CIFAR, 10), 12, 4160, ["stage1.0"]),
        (lambda: architectures.vgg19_bn(CIFAR, 10), 15, 5440, ["stage1.0.conv"]),
        (lambda: architectures.cnn(CIFAR, 10), 2, 64 + 128, ["block1.0"]),
        (lambda: architectures.googlenet_small(CIFAR, 10), 63, SEVEN, ["stem.conv"]),
        (architectures.googlenet, 54, SIX, ["conv1", "conv2r", "conv2"]),
        (lambda: torchvision_googlenet(False), 54, SIX, ["conv1.conv", "conv2.conv", "conv3.conv"]),
        (lambda: torchvision_googlenet(True), 54, SIX, ["conv1.conv", "conv2.conv", "conv3.conv"]),
        (tv.densenet121, 119, 58 * (128 + 32) + 128 + 256 + 512, ["features.conv0"]),
    ],
)
def test_every_convolution_behind_the_stem_gets_a_gate(build, gates, bits, ungated):
    with torch.device("meta"):
        network = build()
        convs = {path for path, module in network.named_modules() if isinstance(module, nn.Conv2d)}
        layers = attach(network, controlled)
    assert len(layers) == gates
    assert sum(layer.conv.out_channels for layer in layers.values()) == bits
    assert convs - set(layers) == set(ungated)
    assert gated_layers(network).keys() == layers.keys()


def test_gates_of_mobile_networks_are_refused_by_name():
    with torch.device("meta"):
        network = tv.mobilenet_v2()
    with pytest.raises(SetupError, match=r"features\.1\.conv\.0\.0 is a convolution of 32 groups"):
        attach(network, controlled)


def test_masks_sit_behind_norm_and_relu_in_the_first_of_a_block_and_behind_the_norm_in_the_second():
    network, _ = gated("residual with projections")
    first, second = network.layer2[0].conv1, network.layer2[0].conv2
    shortcut = network.layer2[0].shortcut[0]
    assert [type(part.act) for part in (first, second, shortcut)] == [nn.ReLU, nn.Identity, nn.Identity]
    assert all(isinstance(part.norm, nn.BatchNorm2d) for part in (first, second, shortcut))
    assert isinstance(gated("cnn")[0].block2[0].act, nn.LeakyReLU)
    late, _ = gated("inception with late ReLUs")
    assert all(isinstance(layer.act, nn.ReLU) for layer in gated_layers(late).values())


@pytest.mark.parametrize("family", ["inception", "inception with late ReLUs"])
def test_in_every_module_the_gate_of_the_pool_branch_reads_what_the_other_branches_read(family):
    network, layers = gated(family)
    read = {}
    for path, layer in layers.items():
        layer.gate.scores = partial(_noted, read, path, layer.gate.scores)
    for run in (straight_through, skipping):
        read.clear()
        with torch.no_grad(), run(network):
            network(pictures(1))
        for module in (3, 5):  # the second stands behind a pool of its own
            paths = [path for path in layers if path.startswith(f"{module}.")]
            first, pooled = paths[0], paths[-1]
            assert "pp" in pooled or "pooled" in pooled
            assert read[first].shape == read[pooled].shape
            assert torch.allclose(read[first], read[pooled])
            assert not torch.equal(read[first], torch.zeros_like(read[first]))


def _noted(read, path, scores, squeezed):
    read[path] = squeezed
    return scores(squeezed)


# ---- all on, all as before -----------------------------------------------------------------------------------------


@ANY
def test_with_all_gates_on_the_network_is_the_dense_one_bit_for_bit(family):
    network, _ = gated(family)
    images = pictures(3)
    with torch.no_grad(), ones(network):
        assert torch.equal(network(images), settled(family)(images))
        assert torch.equal(network(images[:1]), settled(family)(images[:1]))


@ANY
def test_in_training_a_network_with_all_gates_on_has_the_gradients_that_it_had(family):
    dense, network, images = settled(family).train(), settled(family).train(), pictures(4)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for layer in attach(network, moody).values():
        layer.gate.eval()  # or dropout draws other numbers than without noise in the gates
    for one in (network, dense):
        torch.manual_seed(0)
        with ones(one):
            one(images).square().sum().backward()
    wanted = {name: parameter.grad for name, parameter in dense.named_parameters()}
    found = {names[id(p)]: p.grad for p in network.parameters() if id(p) in names}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, wanted[name]), name


def test_gates_are_on_the_device_and_in_the_mode_of_their_convolution():
    network = settled("plain")
    attach(network, controlled)
    assert not any(module.training for layer in gated_layers(network).values() for module in (layer, layer.gate))
    with torch.device("meta"):
        far = FAMILIES["plain"]()
    layers = attach(far, lambda path, conv: ControllingModule(conv.in_channels, conv.out_channels))
    assert all(p.is_meta for layer in layers.values() for p in layer.parameters())
    assert all(layer.gate.training for layer in layers.values())


def test_what_a_network_is_asked_stays_with_its_original():
    """A copy made in a context, as running means are, is in none."""
    network, layers = gated("inception")
    images = pictures(2)
    with torch.no_grad():
        alone = network(images)
        with watched(network) as seen, edited(network, dict.fromkeys(layers, torch.zeros_like)):
            network(images)
            copies = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
        seen.clear()
        for one in copies:
            assert torch.equal(one(images), alone)
            with skipping(one):
                assert torch.allclose(one(images[:1]), alone[:1], atol=1e-4)
        assert not seen


@ANY
def test_a_copy_is_as_good_and_nobody_elses(family):
    network, layers = gated(family)
    images = pictures(2)
    with torch.no_grad():
        wanted = network(images)
        other = copy.deepcopy(network)
        for layer in layers.values():
            layer.conv.weight.zero_()
        assert torch.equal(other(images), wanted)
        with skipping(other):
            assert torch.allclose(other(images[:1]), wanted[:1], atol=1e-4 * (1 + wanted.abs().max().item()))
    theirs, ours = set(map(id, gated_layers(other).values())), set(map(id, layers.values()))
    linked = {id(part) for layer in gated_layers(other).values() for part, _ in layer.sources if part}
    assert linked <= theirs and not linked & ours


@ANY
def test_weights_travel_as_a_state_dict(family):
    network, _ = gated(family)
    other, _ = gated(family, seed=5)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    images = pictures(2)
    with torch.no_grad():
        assert torch.equal(other(images), network(images))


# ---- what is refused -----------------------------------------------------------------------------------------------


def transposed():
    return nn.Sequential(*convolved(3, 8), nn.ConvTranspose2d(8, 6, 2, 2), *convolved(6, 4), *head(4))


class Branching(nn.Module):
    """Asks its data where to go."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, images):
        inside = self.one(images)
        return self.two(inside) if inside.mean() > 0 else inside


class Twice(nn.Module):
    """Uses one convolution two times."""

    def __init__(self):
        super().__init__()
        self.stem, self.same = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, images):
        return self.same(self.same(self.stem(images)))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), r"only 1 \(Linear\)"),
        (lambda: nn.Sequential(*convolved(3, 4), *head(4)), r"two convolutions or more, there are only 0 \(Conv2d\)"),
        (nn.ReLU, "only no layers"),
        (transposed, "3 is ConvTranspose2d"),
        (lambda: nn.Sequential(*convolved(4, 4), nn.Conv2d(4, 4, 3, groups=2)), "3 is a convolution of 2 groups"),
        (lambda: nn.Sequential(*convolved(4, 4), nn.Conv2d(4, 4, 3, groups=4)), "3 is a convolution of 4 groups"),
        (Branching, "cannot be traced: symbolically traced variables cannot be used as inputs to control flow"),
        (Twice, "same is used more than once"),
        (lambda: gated("plain")[0], "has gates already"),
    ],
)
def test_networks_that_cannot_be_gated_are_refused_and_stay_as_they_are(build, text):
    network = build()
    before = str(network)
    with pytest.raises(SetupError, match=text):
        attach(network, moody)
    assert str(network) == before


def test_a_gate_that_cannot_be_made_leaves_the_network_whole():
    network, images = settled("plain"), pictures(2)
    with torch.no_grad():
        dense = network(images)
        made = []

        def fails(path, conv):
            made.append(path)
            return ControllingModule(conv.in_channels, conv.out_channels, reduction=4 if len(made) < 2 else 0)

        with pytest.raises(SetupError, match="reduction"):
            attach(network, fails)
        assert torch.equal(network(images), dense)
    assert attach(network, moody).keys() >= set(made)


def test_few_channels_get_one_hidden_unit():
    network = nn.Sequential(*convolved(1, 3), *convolved(3, 2), *convolved(2, 5), *head(5)).eval()
    layers = attach(network, controlled)
    assert [layer.gate.reduce.out_features for layer in layers.values()] == [1, 1]
    assert network(pictures(2, (1, 6, 6))).shape == (2, 5)


# ---- ways of running -----------------------------------------------------------------------------------------------


OVERWRITING = ("bottleneck", "dense")  # ReLUs that write into what a layer gave


@ANY
def test_what_is_watched_is_what_the_layers_did(family):
    network, layers = gated(family)
    inputs, outputs = {}, {}
    for path, layer in layers.items():
        layer.register_forward_hook(lambda module, args, out, path=path: outputs.update({path: out}))
        layer.register_forward_pre_hook(lambda module, args, path=path: inputs.update({path: args[0].clone()}))
    with torch.no_grad(), watched(network) as seen:
        network(pictures(3))
    assert seen.keys() == layers.keys()
    for path, shown in seen.items():
        layer = layers[path]
        with torch.no_grad():
            h = layer.act(layer.norm(layer.conv(inputs[path])))
        assert torch.equal(shown.gates, (shown.scores > 0).float())
        assert torch.allclose(shown.pooled, h.mean((2, 3)), atol=1e-5)
        masked = h.mean((2, 3)) * shown.gates
        if family not in OVERWRITING:
            assert torch.allclose(outputs[path].mean((2, 3)), masked, atol=1e-5)


def test_contexts_nest_and_leave_nothing_even_when_something_fails():
    network, layers = gated("inception")
    first, *_, last = layers
    images = pictures(2)

    def untouched():
        return all(
            (layer.watch, layer.edit, layer.is_soft, layer.skip, layer.lent) == (None, None, False, None, None)
            for layer in layers.values()
        )

    assert untouched()
    with torch.no_grad():
        plain = network(images)
        with edited(network, {first: torch.zeros_like}), watched(network) as outer:
            network(images)
            zeros = outer[first].gates
            with edited(network, {first: torch.ones_like, last: torch.zeros_like}), watched(network) as inner:
                network(images)
            network(images)
        assert not zeros.any() and inner[first].gates.all() and not inner[last].gates.any()
        assert not outer[first].gates.any() and outer[last].gates.any()
        assert untouched() and torch.equal(network(images), plain)
    contexts = (watched, straight_through, skipping, lambda one: edited(one, {first: torch.ones_like}))
    for context in contexts:
        with pytest.raises(RuntimeError), context(network):
            network(torch.zeros(1, 7, 8, 8))
        assert untouched()


def test_an_edit_of_a_layer_that_is_not_there_names_those_that_are():
    network, layers = gated("plain")
    wrong = {"conv9": torch.ones_like}
    with (
        pytest.raises(SetupError, match=f"no gated layer 'conv9'\n  it has: {', '.join(layers)}"),
        edited(network, wrong),
    ):
        pass


def test_bits_are_fixed_for_all_images_or_for_each():
    network, layers = gated("plain")
    path, layer = next(iter(layers.items()))
    width = layer.conv.out_channels
    row, rows = torch.arange(width) % 2, torch.eye(3, width)
    with torch.no_grad(), watched(network) as seen:
        with edited(network, {path: fixed_to(row)}):
            network(pictures(3))
            assert seen[path].gates.tolist() == [row.tolist()] * 3
        with edited(network, {path: fixed_to(rows)}):
            network(pictures(5))
            assert torch.equal(seen[path].gates, torch.cat([rows, rows[2:], rows[2:]]))
            with pytest.raises(ShapeError, match="bits should be"):
                network(pictures(2))
        with edited(network, {path: fixed_to(torch.ones(width + 1))}), pytest.raises(ShapeError, match="bits should"):
            network(pictures(3))


def test_straight_through_changes_no_value_and_lets_gradients_pass():
    network, layers = gated("plain")
    images = pictures(2).requires_grad_()
    plain = network(images)
    with straight_through(network), watched(network) as seen:
        soft = network(images)
    assert torch.equal(plain, soft)
    path = next(iter(layers))
    scores, gates = seen[path].scores, seen[path].gates
    (gradient,) = torch.autograd.grad(gates.sum(), scores, retain_graph=True)
    assert torch.allclose(gradient, scores.sigmoid() * (1 - scores.sigmoid()))
    with watched(network) as seen:
        network(images)
    assert not seen[path].gates.requires_grad


def test_counting_leaves_the_network_as_it_is():
    network, layers = gated("plain")
    before = {name: tensor.clone() for name, tensor in network.train().state_dict().items()}
    count = multiply_adds(network, (3, 16, 16))
    assert network.training and all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert set(count.kernels) == set(layers)


def test_a_layer_that_is_off_costs_nothing_and_saves_those_behind_it():
    network, layers = gated("plain", lambda path, conv: FixedGate(torch.ones(conv.out_channels)))
    count = multiply_adds(network, (3, 16, 16))
    bits = {path: torch.ones(1, layer.conv.out_channels, dtype=torch.bool) for path, layer in layers.items()}
    _, third, fourth = (layer.conv.weight.numel() for layer in layers.values())
    bits[list(layers)[1]] = torch.zeros(1, 12, dtype=torch.bool)
    assert count.executed(bits).item() == count.dense - third * 8 * 8 - fourth * 4 * 4
