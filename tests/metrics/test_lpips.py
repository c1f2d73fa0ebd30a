"""LPIPS and the metrics on it, with a distance that is known in closed form: the mean absolute difference."""

import itertools

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.lpips_alex import lpips_alex
from metrics.lpips_vgg import lpips_vgg
from metrics.same_class_lpips_alex import same_class_lpips_alex
from metrics.same_class_lpips_alex_ratio import same_class_lpips_alex_ratio
from metrics.same_class_lpips_vgg import same_class_lpips_vgg
from metrics.same_class_lpips_vgg_ratio import same_class_lpips_vgg_ratio

NETS = ["alex", "vgg"]
PAIRED = {"alex": lpips_alex, "vgg": lpips_vgg}
SAME_CLASS = {"alex": same_class_lpips_alex, "vgg": same_class_lpips_vgg}
RATIO = {"alex": same_class_lpips_alex_ratio, "vgg": same_class_lpips_vgg_ratio}


def flat(*levels: float, side: int = 32) -> torch.Tensor:
    """Images of one grey each."""
    return torch.tensor(levels, dtype=torch.float32)[:, None, None, None].expand(-1, 1, side, side)


class Distance:
    """Mean absolute difference; remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        self.seen.append((first, second))
        return (first - second).abs().flatten(1).mean(1)


@pytest.mark.parametrize("net", NETS)
def test_each_image_is_compared_with_its_own_original(net):
    value = PAIRED[net](generated=flat(0.25, 1, 0), real=flat(0.5, 0, 0), **{f"lpips_{net}": Distance()})
    assert value.tolist() == [0.25, 1, 0]
    assert value.dtype == torch.float64


@pytest.mark.parametrize("net", NETS)
def test_the_network_is_shown_intensities_not_minus_one_to_one(net):
    distance = Distance()
    PAIRED[net](generated=flat(0.25), real=flat(1), **{f"lpips_{net}": distance})
    ((first, second),) = distance.seen
    assert (first == 0.25).all() and (second == 1).all()


@pytest.mark.parametrize("net", NETS)
def test_images_taken_to_minus_one_before_are_refused(net):
    for generated, real in ((flat(0.5), flat(-1)), (flat(-1), flat(0.5)), (flat(0.5), flat(127.5))):
        with pytest.raises(ShapeError, match=r"should be intensities in \[0, 1\]"):
            PAIRED[net](generated=generated, real=real, **{f"lpips_{net}": Distance()})


def test_alexnet_has_no_value_for_small_images_and_names_the_one_that_has():
    small = {"generated": flat(0, 1, side=28), "real": flat(1, 1, side=28)}
    assert lpips_alex(**small, lpips_alex=Distance()) == Undefined("the network needs 32 px, got 28×28: use lpips_vgg")
    assert lpips_vgg(**small, lpips_vgg=Distance()).tolist() == [1, 0]
    assert lpips_vgg(generated=flat(0, side=12), real=flat(0, side=12), lpips_vgg=Distance()) == Undefined(
        "the network needs 16 px, got 12×12"
    )
    unlike = same_class_lpips_alex(generated=small["generated"], lpips_alex=Distance())
    assert unlike == Undefined("the network needs 32 px, got 28×28: use same_class_lpips_vgg")


def test_alexnet_itself_cannot_be_shown_28_px():
    from torchvision.models import alexnet

    with pytest.raises(RuntimeError, match="too small"):
        alexnet(weights=None).features(torch.zeros(1, 3, 28, 28))


@pytest.mark.parametrize("net", NETS)
def test_up_to_ten_images_of_a_class_are_compared_all_with_all(net):
    levels = [0.0, 0.1, 0.25, 0.3, 0.5, 0.55, 0.6, 0.8, 0.9, 1.0]
    expected = sum(abs(a - b) for a, b in itertools.combinations(levels, 2)) / 45
    value = SAME_CLASS[net](generated=flat(*levels), **{f"lpips_{net}": Distance()})
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_of_more_images_no_pair_comes_twice_each_image_as_often_and_order_changes_nothing():
    images = torch.rand(25, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    distance = Distance()
    value = same_class_lpips_vgg(generated=images, lpips_vgg=distance)
    ((first, second),) = distance.seen
    known = {tuple(image.flatten().tolist()): place for place, image in enumerate(images)}
    pairs = [
        frozenset((known[tuple(a.flatten().tolist())], known[tuple(b.flatten().tolist())]))
        for a, b in zip(first, second, strict=True)
    ]
    assert len(pairs) == len(set(pairs)) == 50
    assert all(len(pair) == 2 for pair in pairs)
    assert {sum(place in pair for pair in pairs) for place in range(25)} == {4}
    other = same_class_lpips_vgg(generated=images.flip(0), lpips_vgg=Distance())
    assert other.item() == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize("net", NETS)
def test_the_ratio_is_that_of_the_two_mean_distances(net):
    judge = {f"lpips_{net}": Distance()}
    ratio = RATIO[net](generated=flat(0, 0.5), real=flat(0, 0.25, 0.5), **judge)
    assert ratio.item() == pytest.approx(0.5 / (1 / 3), rel=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_one_image_or_equal_real_images_have_no_ratio(net):
    judge = {f"lpips_{net}": Distance()}
    assert RATIO[net](generated=flat(0, 1), real=flat(0.5, 0.5), **judge) == Undefined(
        "the real images of the class are all equal"
    )
    assert RATIO[net](generated=flat(0), real=flat(0.5, 1), **judge) == Undefined(
        "a pair needs 2 images of the class, got 1 generated and 2 real"
    )
    assert SAME_CLASS[net](generated=flat(0), **judge) == Undefined("a pair needs 2 images of the class, got 1")
