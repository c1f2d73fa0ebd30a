"""The wrapper around a subject: what goes in and comes out, what it counts, and what it leaves as it was."""

import copy

import pytest
import torch
from torch import Tensor, nn

from bench.contract import BudgetExceeded, PassCounter, SetupError, ShapeError
from bench.zoo.classifier import FILL, PENULTIMATE, Classifier

SHAPE = (2, 8, 8)
MEAN, STD = (0.3, 0.6), (0.2, 0.4)


class Toy(nn.Module):
    """Two convolutions and a linear layer; remembers how many images its last part was run on."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.Tanh())
        self.head = nn.Linear(6, 3)
        self.finished: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.second(self.first(images)).mean((2, 3))
        self.finished.append(len(images))
        return self.head(pooled)


def wrapped(network: nn.Module, *, num_classes: int = 3, taps: dict[str, str] | None = None) -> Classifier:
    return Classifier(
        network, name="toy", image_shape=SHAPE, num_classes=num_classes, mean=MEAN, std=STD, taps=taps or {}
    )


@pytest.fixture
def toy() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Toy()
        network.first[1].running_mean.uniform_(-1, 1)
    return wrapped(network, taps={"first": "first", "second": "second"})


def images(count: int = 3, *, grad: bool = False) -> Tensor:
    drawn = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    return drawn.requires_grad_(grad)


def hooks_of(network: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


# ---- what goes in and comes out ------------------------------------------------------------------------------------


def test_the_network_gets_images_minus_mean_over_deviation(toy):
    by_hand = images().clone()
    for channel in range(2):
        by_hand[:, channel] = (by_hand[:, channel] - MEAN[channel]) / STD[channel]
    torch.testing.assert_close(toy.normalise(images()), by_hand)
    torch.testing.assert_close(toy(images()), toy.network(by_hand))


def test_subject_is_frozen_and_stays_in_eval_mode(toy):
    toy.train()
    assert not any(module.training for module in toy.modules())
    assert not any(parameter.requires_grad for parameter in toy.parameters())


def test_taps_end_with_the_input_of_the_linear_layer(toy):
    assert toy.taps == ("first", "second", PENULTIMATE)
    seen = toy.observe(images(), toy.taps)
    head = toy.network.head
    torch.testing.assert_close(seen.logits, seen.features[PENULTIMATE] @ head.weight.T + head.bias)
    torch.testing.assert_close(seen.features[PENULTIMATE], seen.features["second"].mean((2, 3)))


def test_features_alone_equal_features_beside_the_logits(toy):
    seen = toy.observe(images(), toy.taps)
    assert all(torch.equal(toy.features(images(), tap), seen.features[tap]) for tap in toy.taps)


@pytest.mark.parametrize("tap", ["first", "second", PENULTIMATE])
def test_layers_behind_the_tap_are_not_computed(toy, tap):
    toy.features(images(), tap)
    assert toy.network.finished == ([] if tap != PENULTIMATE else [FILL])


def test_the_network_sees_filled_batches_and_the_caller_does_not(toy):
    for count in (1, FILL - 1, FILL, FILL + 1):
        seen = toy.observe(images(count), toy.taps)
        assert {len(seen.logits), *map(len, seen.features.values())} == {count}
        assert toy.network.finished[-1] % FILL == 0


def test_convolution_as_head_has_its_mean_input_as_penultimate():
    body, head = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 3, 1)
    subject = wrapped(nn.Sequential(body, nn.ReLU(), head, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    expected = body(subject.normalise(images())).relu().mean((2, 3))
    torch.testing.assert_close(subject.features(images(), PENULTIMATE), expected)
    torch.testing.assert_close(subject.observe(images(), (PENULTIMATE,)).features[PENULTIMATE], expected)
    assert subject(images()).shape == (3, 3)


def test_trunk_has_no_logits_but_features():
    trunk = wrapped(nn.Sequential(nn.Conv2d(2, 5, 3), nn.AdaptiveAvgPool2d(1)), num_classes=0, taps={"conv": "0"})
    with pytest.raises(SetupError, match="toy has no logits"):
        trunk(images())
    pooled = trunk.features(images(), "conv").mean((2, 3))
    torch.testing.assert_close(trunk.features(images(), PENULTIMATE), pooled)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 1, 8, 8), (3, 2, 8, 9), (3, 2, 64)])
def test_images_of_another_shape_are_refused(toy, shape):
    with pytest.raises(ShapeError, match=r"toy takes \(B, 2, 8, 8\), got "):
        toy(torch.zeros(shape))
    assert toy.passes.total == 0


def test_whole_numbers_are_refused(toy):
    with pytest.raises(ShapeError, match="floating point intensities"):
        toy(torch.zeros(1, *SHAPE, dtype=torch.uint8))


def test_unknown_tap_is_refused_with_those_there_are(toy):
    with pytest.raises(SetupError, match=r"toy has no tap 'third'\n  it has: first, second, penultimate"):
        toy.features(images(), "third")


def test_network_without_a_layer_for_its_classes_is_refused():
    with pytest.raises(SetupError, match=r"needs an nn.Linear .* with 3 outputs"):
        wrapped(nn.Sequential(nn.Flatten(), nn.Linear(128, 4)))


def test_tap_that_gives_no_tensor_is_refused():
    class Pair(nn.Module):
        def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
            return given, given

    class Paired(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.head = Pair(), nn.Linear(128, 3)

        def forward(self, given: Tensor) -> Tensor:
            return self.head(self.pair(given)[0].flatten(1))

    with pytest.raises(SetupError, match="tap 'pair' gives a tuple"):
        wrapped(Paired(), taps={"pair": "pair"}).features(images(), "pair")


# ---- what is counted -----------------------------------------------------------------------------------------------


# a scalar to go back from, so that gradients reach the pixels
ENTRIES = {
    "logits": lambda toy, given: toy(given).sum(),
    "tap": lambda toy, given: toy.features(given, "first").sum(),
    "penultimate": lambda toy, given: toy.features(given, PENULTIMATE).sum(),
    "logits and taps at once": lambda toy, given: sum(
        tensor.sum() for seen in [toy.observe(given, toy.taps)] for tensor in (seen.logits, *seen.features.values())
    ),
}


def test_one_forward_pass_an_image_whatever_is_asked(toy):
    toy(images(3))
    toy.features(images(2), "first")
    toy.observe(images(4), toy.taps)
    assert (toy.passes.forward, toy.passes.backward) == (9, 0)


@pytest.mark.parametrize("entry", ENTRIES)
def test_one_backward_pass_an_image_wherever_the_gradient_enters(toy, entry):
    given = images(grad=True)
    ENTRIES[entry](toy, given).backward()
    assert given.grad.abs().sum() > 0
    assert (toy.passes.forward, toy.passes.backward) == (3, 3)


def test_two_gradients_through_one_forward_pass_are_two_backward_passes(toy):
    logits = toy(images(grad=True))
    logits[:, 0].sum().backward(retain_graph=True)
    logits[:, 1].sum().backward()
    assert (toy.passes.forward, toy.passes.backward) == (3, 6)


def test_a_gradient_from_a_tap_and_one_from_the_logits_are_two_backward_passes(toy):
    seen = toy.observe(images(grad=True), ("first",))
    seen.features["first"].sum().backward(retain_graph=True)
    seen.logits.sum().backward()
    assert toy.passes.backward == 6


def test_a_gradient_that_leaves_at_a_tap_is_a_backward_pass(toy):
    seen = toy.observe(images(grad=True), ("second",))
    (gradient,) = torch.autograd.grad(seen.logits.sum(), seen.features["second"])
    assert gradient.abs().sum() > 0
    assert toy.passes.backward == 3


def test_a_gradient_of_a_gradient_counts_again(toy):
    given = images(grad=True)
    (gradient,) = torch.autograd.grad(toy(given).sum(), given, create_graph=True)
    gradient.square().sum().backward()
    assert toy.passes.backward == 6


def test_no_gradient_no_backward_pass(toy):
    with torch.no_grad():
        toy(images(grad=True))
    toy(images())
    assert toy.passes.backward == 0


def test_forward_pass_over_the_budget_is_refused(toy):
    toy.passes = PassCounter(limit=5)
    toy(images(3))
    with pytest.raises(BudgetExceeded, match="6 passes, the cell's budget is 5"):
        toy(images(3))


def test_backward_pass_over_the_budget_is_refused(toy):
    toy.passes = PassCounter(limit=5)
    logits = toy(images(3, grad=True))
    with pytest.raises(BudgetExceeded, match="6 passes, the cell's budget is 5"):
        logits.sum().backward()


# ---- what is left as it was ----------------------------------------------------------------------------------------


def test_no_hook_stays_behind(toy):
    toy.observe(images(grad=True), toy.taps).logits.sum().backward()
    toy.features(images(), "first")
    toy.passes = PassCounter(limit=0)
    with pytest.raises(BudgetExceeded):
        toy.features(images(), "first")
    assert hooks_of(toy) == 0


def test_no_hook_stays_behind_when_the_network_fails(toy):
    toy.network.second = nn.Linear(1, 1)  # does not fit
    with pytest.raises(RuntimeError):
        toy.observe(images(), ("first",))
    assert hooks_of(toy) == 0


def test_checksum_stays_when_the_subject_is_used(toy):
    before = toy.checksum()
    toy.observe(images(grad=True), toy.taps).logits.sum().backward()
    assert toy.checksum() == before == copy.deepcopy(toy).checksum()


@pytest.mark.parametrize("name", ["head.weight", "first.1.running_mean", "first.1.num_batches_tracked"])
def test_checksum_sees_one_changed_number_in_a_parameter_or_buffer(toy, name):
    before = toy.checksum()
    toy.network.state_dict()[name].view(-1)[0] += 1
    assert toy.checksum() != before


def test_checksum_sees_two_layers_exchanged():
    flatten, one, other, head = nn.Flatten(), nn.Linear(128, 128), nn.Linear(128, 128), nn.Linear(128, 3)
    subjects = [wrapped(nn.Sequential(flatten, *pair, head)) for pair in ((one, other), (other, one))]
    assert subjects[0].checksum() != subjects[1].checksum()


def test_each_parameter_belongs_to_the_subject_once(toy):
    names = [name for name in toy.state_dict() if name.endswith("head.weight")]
    assert names == ["network.head.weight"]
