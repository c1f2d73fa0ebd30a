"""A subject drawn anew: everything it learnt is gone, everything else is as it was."""

import torch
from torch import nn

from bench.execute.randomise import drawn_anew
from bench.zoo.classifier import Classifier
from tests import toys


class Own(nn.Module):
    """A layer with parameters that nobody knows how to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(5 + 3 * torch.randn(4000, generator=torch.Generator().manual_seed(0)))
        self.gain = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1)) * self.gain + self.token.mean()


def subject(network: nn.Module, shape: tuple[int, int, int], classes: int) -> Classifier:
    channels = shape[0]
    return Classifier(
        network, name="s", image_shape=shape, num_classes=classes, mean=[0.5] * channels, std=[0.5] * channels, taps={}
    )


def test_it_starts_as_its_own_kind_does():
    """Making a layer under a seed and drawing it anew under that seed are the same."""
    trained = nn.Linear(12, 3)
    blank = drawn_anew(subject(nn.Sequential(nn.Flatten(), trained), (3, 2, 2), 3), seed=11)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        fresh = nn.Linear(12, 3)
    assert torch.equal(blank.network[1].weight, fresh.weight)
    assert torch.equal(blank.network[1].bias, fresh.bias)
    assert not torch.equal(trained.weight, fresh.weight)


def test_batch_norm_forgets_what_it_gathered():
    model = toys.toy_classifier()
    assert model.network.block1[1].running_mean.abs().max() > 0
    norm = drawn_anew(model, seed=0).network.block1[1]
    assert not norm.running_mean.any() and (norm.running_var == 1).all()


def test_what_nobody_can_draw_keeps_its_mean_and_spread():
    model = subject(Own(), (1, 2, 2), 3)
    before = model.network.token.clone()
    blank = drawn_anew(model, seed=1).network
    assert not torch.isclose(blank.token, before).float().mean() > 0.01
    assert abs(blank.token.mean() - 5) < 0.3 and abs(blank.token.std() - 3) < 0.2
    assert blank.gain == 1, "one number alone has no spread"


def test_the_subject_and_the_global_generator_are_left_alone():
    model, state = toys.toy_classifier(), torch.get_rng_state()
    before = model.checksum()
    blank = drawn_anew(model, seed=3)
    assert model.checksum() == before != blank.checksum()
    assert torch.equal(torch.get_rng_state(), state)
    images = toys.smooth_images(2, 0)
    model(images)
    assert (model.passes.total, blank.passes.total) == (2, 0)
    assert not any(parameter.requires_grad for parameter in blank.parameters())
    assert not any(module.training for module in blank.modules())


def test_the_seed_decides():
    model = toys.toy_classifier()
    first, again, other = (drawn_anew(model, seed=seed).checksum() for seed in (4, 4, 5))
    assert first == again != other


def test_taps_are_those_of_the_copy():
    model = toys.toy_classifier()
    blank, images = drawn_anew(model, seed=6), toys.smooth_images(2, 0)
    with torch.no_grad():
        for tap in model.taps:
            assert not torch.allclose(model.features(images, tap), blank.features(images, tap)), tap
