"""The fakes of the sanity suites: each does what it says, and only that."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bench import registry
from bench.contract import InversionTask, ReconstructionTask, VisualizationTask
from bench.execute.tracks import batches
from methods.inversion.degraded_images import DegradedImages as Inverted
from methods.reconstruction.degraded_images import DegradedImages as Reconstructed
from methods.visualization.copied_references import CopiedReferences

COUNT, SHAPE = 24, (3, 16, 16)
LABELS = torch.arange(COUNT) % 3


def pictures(count=COUNT, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Network:
    """As much of a subject as a task asks for."""

    image_shape = SHAPE


KNOWN = {"references": torch.zeros(4, *SHAPE), "reference_labels": torch.arange(4)}


def common(count=COUNT, seed=0):
    return {"model": Network(), "places": torch.arange(count), "seed": seed, "budget": 0}


def inverted(seed=0, real=None, **settings):
    made = Inverted(**settings)
    task = InversionTask(**common(seed=seed), labels=LABELS, real=pictures() if real is None else real)
    return made.invert(task.replace(fitted=made.fit(task)))


def reconstructed(**settings):
    made, real = Reconstructed(**settings), pictures()
    task = ReconstructionTask(**common(), **KNOWN, tap="", wanted=real, real=real)
    return made.reconstruct(task.replace(fitted=made.fit(task)))


def shown(images):
    """Which of the real pictures each image is."""
    return [next(n for n, real in enumerate(pictures()) if torch.equal(real, image)) for image in images]


@pytest.mark.parametrize("degraded", [inverted, reconstructed])
def test_as_it_stands_it_hands_back_the_real_images_bit_for_bit(degraded):
    assert torch.equal(degraded(), pictures())


@pytest.mark.parametrize("degraded", [inverted, reconstructed])
@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_scipys_gaussian_filter(degraded, sigma):
    expected = gaussian_filter(pictures().double().numpy(), sigma, mode="mirror", radius=int(3 * sigma), axes=(2, 3))
    assert np.allclose(degraded(blur=sigma).numpy(), expected, atol=1e-6)


def test_a_blur_wider_than_the_image_is_cut_to_it():
    assert inverted(blur=8.0).isfinite().all()


@pytest.mark.parametrize("degraded", [inverted, reconstructed])
def test_noise_has_the_deviation_asked_for(degraded):
    difference = degraded(noise=0.1) - pictures()
    inside = (pictures() > 0.4) & (pictures() < 0.6)  # four deviations from being clipped
    assert difference[inside].std().item() == pytest.approx(0.1, rel=0.05)
    assert difference[inside].mean().item() == pytest.approx(0, abs=0.01)


def test_the_seed_decides_the_noise_and_nothing_else():
    assert not torch.equal(inverted(noise=0.1), inverted(noise=0.1, seed=1))
    assert torch.equal(inverted(blur=1.0), inverted(blur=1.0, seed=1))


def test_without_contrast_everything_is_grey():
    assert (inverted(contrast=0.0) == 0.5).all()


@pytest.mark.parametrize("modes", [1, 2, 5])
def test_so_many_different_images_of_its_own_class_are_shown_in_turn(modes):
    places = shown(inverted(modes=modes))
    for label in range(3):
        own = [place for n, place in enumerate(places) if n % 3 == label]
        assert own == [label + 3 * (rank % modes) for rank in range(len(own))]


def test_moved_labels_show_every_image_once_and_never_under_its_own_label():
    places = shown(inverted(labels_moved=1))
    assert sorted(places) == list(range(COUNT))
    assert all(place % 3 == (n + 1) % 3 for n, place in enumerate(places))


def test_another_image_the_mean_and_a_shift():
    assert shown(reconstructed(show="next")) == [*range(1, COUNT), 0]
    mean = pictures().double().numpy().mean(0)
    assert np.allclose(reconstructed(show="mean").numpy(), mean, atol=1e-6)
    moved = reconstructed(shift=1)
    assert torch.equal(moved[..., 1:], pictures()[..., :-1]) and torch.equal(moved[..., 0], pictures()[..., -1])


def test_copied_references_are_reference_images_of_the_class():
    references = pictures(9, seed=1)
    task = VisualizationTask(
        **common(), kind="class", tap=None, targets=LABELS, references=references,
        reference_labels=torch.arange(9) % 3,
    )  # fmt: skip
    made = CopiedReferences()
    images = made.visualize(task.replace(fitted=made.fit(task)))
    assert torch.equal(images, references[torch.arange(COUNT) % 9])  # labels and references both go round


@pytest.mark.parametrize("variant", sorted(registry.method_card("inversion/degraded_images").variants))
def test_the_harness_gets_the_same_from_parts_as_from_the_whole(variant):
    """What `fit` returned stays whole, though it has a row an image."""
    made = registry.make_method("inversion/degraded_images", variant)
    task = InversionTask(**common(), labels=LABELS, real=pictures())
    task = task.replace(fitted=made.fit(task))
    parts = torch.cat([made.invert(part) for part in batches(task, 7)])
    torch.testing.assert_close(parts, made.invert(task), rtol=0, atol=1e-6)


def test_reasons_to_skip():
    task = InversionTask(**common(), labels=LABELS)
    assert Inverted().why_not(task) == "needs real images of the wanted labels, the task has none"
    features = ReconstructionTask(**common(), **KNOWN, tap="", wanted=pictures())
    assert Reconstructed().why_not(features) == "needs the originals, the task has none"
    channels = VisualizationTask(
        **common(), kind="channel", tap="", targets=LABELS, references=pictures(), reference_labels=LABELS
    )
    assert CopiedReferences().why_not(channels) == "needs classes to copy images of, the targets are channels"
