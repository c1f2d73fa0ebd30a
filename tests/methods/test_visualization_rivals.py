"""Fourier coefficients, constrained magnitudes, total variation, and what they share."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from bench import ops
from bench.contract import Diverged, SetupError, VisualizationTask
from bench.zoo.classifier import Classifier
from methods.visualization._references import colours_of, mean_magnitude
from methods.visualization._transforms import resampled, rolled, whole_shifts
from methods.visualization.fourier import Fourier
from methods.visualization.maco import MACO
from methods.visualization.total_variation_ascent import TotalVariationAscent, blurred, total_variation

RIVALS = [Fourier(), MACO(), TotalVariationAscent()]
each_rival = pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: type(rival).__name__)
each_kind = pytest.mark.parametrize(("kind", "tap"), [("class", None), ("channel", "block1"), ("channel", "block2")])
SHAPES = [(1, 28, 28), (3, 32, 32), (3, 7, 12), (1, 12, 7), (3, 9, 5)]


def numbers(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pictures(shape, count=6, contrast=1.0, seed=0):
    """Soft, with colours that go together: grey plus a little of each channel."""
    channels, height, width = shape
    coarse = numbers(count, channels, 4, 4, seed=seed) + 2 * numbers(count, 1, 4, 4, seed=seed + 1)
    soft = nn.functional.interpolate(coarse / 3, (height, width), mode="bilinear", align_corners=True)
    return 0.5 + contrast * (soft - 0.5)


def task_for(model, *, kind="class", tap=None, count=8, budget=20, seed=0, references=None):
    references = pictures(model.image_shape) if references is None else references
    return VisualizationTask(
        model=model,
        places=torch.arange(count),
        seed=seed,
        budget=budget,
        kind=kind,
        tap=tap,
        targets=torch.arange(count) % 8,
        references=references,
        reference_labels=torch.zeros(len(references), dtype=torch.int64),
    )


def look(method, task):
    return method.visualize(task.replace(fitted=method.fit(task)) if hasattr(method, "fit") else task)


def subject_of(shape, weights=None):
    """A convolution and a pool, or a linear map with the given (K, C, H, W) gradients, over any shape of picture."""
    channels, height, width = shape
    if weights is None:
        wide = nn.Conv2d(channels, 8, 3, padding=1)
        network = nn.Sequential(wide, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        with torch.no_grad():
            for place, parameter in enumerate(network.parameters()):
                parameter.copy_(numbers(*parameter.shape, seed=place) - 0.5)
    else:
        network = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, len(weights), bias=False))
        with torch.no_grad():
            network[1].weight.copy_(weights.flatten(1))
    return Classifier(
        network, name="made", image_shape=shape, num_classes=network[-1].out_features, mean=[0.0] * channels,
        std=[1.0] * channels, taps={} if weights is not None else {"wide": "1"},
    )  # fmt: skip


def covariance(images):
    """(C, C) of all pixels, by NumPy."""
    channels = images.shape[1]
    return np.cov(images.double().numpy().transpose(1, 0, 2, 3).reshape(channels, -1), bias=True).reshape(channels, -1)


# ---- what all three keep to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rival",
    [Fourier(start_spread=1.0), MACO(), TotalVariationAscent(smoothness=0.3, decay=0.1)],
    ids=lambda rival: type(rival).__name__,
)
@each_kind
def test_activation_rises_above_its_start(digits_classifier, digits, rival, kind, tap):
    """A wide start and light penalties: on digits, grey pictures leave channels dead, and channels are weak."""
    task = task_for(digits_classifier, kind=kind, tap=tap, budget=60, references=digits[0][:40])
    start = look(rival, task.replace(budget=0))
    gain = task.activation(look(rival, task)) - task.activation(start)
    assert gain.min() >= 0
    assert gain.median() > 0.3


@each_rival
@each_kind
def test_an_image_alone_comes_out_as_in_a_batch(tiny_classifier, rival, kind, tap):
    task = task_for(tiny_classifier, kind=kind, tap=tap)
    together = look(rival, task)
    for row in (0, 7):
        alone = look(rival, task.replace(places=task.places[row, None], targets=task.targets[row, None]))
        assert (together[row] - alone[0]).abs().max() <= 1e-5


@each_rival
def test_seeds_decide_the_images(tiny_classifier, rival):
    one, same, other = (look(rival, task_for(tiny_classifier, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert (one - other).abs().flatten(1).amax(1).min() > 1e-3


@each_rival
@each_kind
def test_the_whole_budget_goes_into_steps_of_two_passes_and_no_more(tiny_classifier, rival, kind, tap):
    look(rival, task_for(tiny_classifier, kind=kind, tap=tap, budget=21))
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (80, 80)


@each_rival
@pytest.mark.parametrize("shape", [*SHAPES, (3, 224, 224)], ids=str)
def test_pictures_may_have_any_size_and_number_of_colours(rival, shape):
    for kind, tap in (("class", None), ("channel", "wide")):
        images = look(rival, task_for(subject_of(shape), kind=kind, tap=tap, count=2, budget=2))
        assert images.shape == (2, *shape) and images.dtype == torch.float32 and not images.requires_grad
        assert images.min() >= 0 and images.max() <= 1
        assert images.std() > 0


@each_rival
def test_numbers_that_are_not_finite_are_called_diverged(rival):
    broken = subject_of((1, 8, 8), weights=torch.full((2, 1, 8, 8), torch.nan))
    with pytest.raises(Diverged, match="2 of 2 images are not finite"):
        look(rival, task_for(broken, count=2))


@each_rival
def test_too_small_a_budget_is_a_reason_to_skip(tiny_classifier, rival):
    assert rival.why_not(task_for(tiny_classifier, budget=1)) == "needs 2 passes an image, the budget is 1"
    assert rival.why_not(task_for(tiny_classifier, budget=2)) is None


def test_references_are_needed_where_something_is_measured_on_them(tiny_classifier):
    task = task_for(tiny_classifier, references=torch.zeros(0, 3, 8, 8))
    assert Fourier().why_not(task) == "needs reference images to measure colours on, the task has none"
    assert MACO().why_not(task) == "needs reference images to measure a spectrum on, the task has none"
    assert Fourier(decorrelate=False).why_not(task) is None
    assert TotalVariationAscent().why_not(task) is None


# ---- what references say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_coloured_white_noise_has_the_references_mean_and_covariance(channels):
    references = pictures((channels, 9, 14), count=130)  # more than are looked at together
    colours = colours_of(references)
    noise = torch.randn(50, channels, 40, 40, generator=torch.Generator().manual_seed(0))
    seen = colours.coloured(noise)
    sampled = np.array(covariance(seen))
    np.testing.assert_allclose(colours.root @ colours.root.T, covariance(references), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(sampled, covariance(references), atol=0.02 * covariance(references).max())
    np.testing.assert_allclose(seen.mean((0, 2, 3)), references.mean((0, 2, 3)), atol=2e-3)


def test_decorrelated_references_have_no_correlation_and_come_back():
    references = pictures((3, 9, 14), count=40)
    colours = colours_of(references)
    parts = colours.decorrelated(references)
    np.testing.assert_allclose(covariance(parts), np.eye(3), atol=1e-3)
    torch.testing.assert_close(colours.coloured(parts), references)


def test_grey_references_in_three_channels_have_one_direction_of_colour():
    references = pictures((1, 8, 8)).expand(-1, 3, -1, -1)
    colours = colours_of(references)
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert (colours.coloured(noise).std(1) < 1e-6).all()
    torch.testing.assert_close(colours.coloured(colours.decorrelated(references)), references.contiguous())


def test_references_of_one_colour_are_refused():
    with pytest.raises(SetupError, match="all pixels of the 5 references have one colour"):
        colours_of(torch.full((5, 3, 4, 4), 0.25))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_mean_magnitude_is_that_of_numpy(shape):
    references = pictures(shape, count=70)
    colours = colours_of(references)
    parts = [np.linalg.pinv(colours.root.numpy()) @ (x - colours.mean[:, None, None]).flatten(1).numpy()
             for x in references]  # fmt: skip
    spectra = [np.abs(np.fft.rfft2(part.reshape(shape))) / math.sqrt(shape[1] * shape[2]) for part in parts]
    np.testing.assert_allclose(mean_magnitude(references, colours), np.mean(spectra, axis=0), rtol=2e-3, atol=1e-4)


# ---- what pictures should survive ----------------------------------------------------------------------------------


def test_each_image_is_rolled_by_its_own_shift():
    images, shifts = numbers(5, 3, 6, 9), torch.tensor([[0, 0], [1, -2], [-6, 4], [3, 9], [-1, -1]])
    each = [torch.roll(x, tuple(shift.tolist()), (1, 2)) for x, shift in zip(images, shifts, strict=True)]
    assert torch.equal(rolled(images, shifts), torch.stack(each))


def test_whole_shifts_take_every_value_alike_and_no_other():
    shifts = whole_shifts((torch.arange(700) + 0.5) / 700, 3)
    assert shifts.unique(return_counts=True)[1].tolist() == [100] * 7
    assert (shifts.min(), shifts.max()) == (-3, 3)


def window(images, share=1.0, angle=0.0, centre=(0.0, 0.0)):
    count = len(images)
    return resampled(
        images,
        share=torch.full((count,), share),
        angle=torch.full((count,), angle),
        centre=torch.tensor([centre]).expand(count, -1),
    )


def test_the_whole_picture_is_itself_and_a_quarter_turn_is_exact():
    images = numbers(2, 3, 8, 8)
    torch.testing.assert_close(window(images), images)
    torch.testing.assert_close(window(images, angle=math.pi / 2), images.rot90(-1, (2, 3)))


def test_what_lies_outside_is_grey():
    images = numbers(2, 3, 6, 9)
    shifted = window(images, centre=(2.0, -3.0))
    torch.testing.assert_close(shifted[:, :, :4, 3:], images[:, :, 2:, :6])
    assert (shifted[:, :, 4:] - 0.5).abs().max() < 1e-5
    assert (shifted[:, :, :, :3] - 0.5).abs().max() < 1e-5


def test_a_window_on_a_slope_shows_the_slope_where_the_docstring_says():
    """Bilinear sampling of a linear picture is exact, so every output pixel has a closed form."""
    height, width, share, angle, centre = 12, 20, 0.4, 0.3, (1.25, -2.5)
    slope = torch.stack([torch.arange(height)[:, None].expand(-1, width), torch.arange(width).expand(height, -1)])
    seen = window(slope[None].float(), share, angle, centre)[0]
    for i in range(height):
        for j in range(width):
            down, right = i - 5.5, j - 9.5
            row = 5.5 + centre[0] + share * (math.cos(angle) * down - math.sin(angle) * right)
            column = 9.5 + centre[1] + share * (math.sin(angle) * down + math.cos(angle) * right)
            assert seen[:, i, j].tolist() == pytest.approx([row, column], abs=1e-4)


# ---- Fourier -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_fourier_start_is_what_the_docstring_says(shape):
    """One step of size nothing: NumPy's inverse transform of the drawn coefficients, in the references' colours."""
    channels, height, width = shape
    task = task_for(subject_of(shape), count=2, budget=2)
    side = max(height, width)
    own = np.linalg.cholesky(covariance(task.references) / np.linalg.eigvalsh(covariance(task.references)).max())
    drawn = (0.1 * task.draws("start", channels, height, width // 2 + 1, 2)).double().numpy()
    spectrum = drawn[..., 0] + 1j * drawn[..., 1]
    for row in range(height):
        for column in range(width // 2 + 1):
            frequency = math.hypot(min(row, height - row) / height, column / width)
            spectrum[:, :, row, column] /= max(frequency, 1 / side)
    parts = np.fft.irfft2(spectrum, s=(height, width), norm="ortho") / 4
    matrix = Fourier().fit(task)
    np.testing.assert_allclose(matrix @ matrix.T, own @ own.T, rtol=1e-3, atol=1e-6)
    expected = 1 / (1 + np.exp(-np.einsum("dc,bchw->bdhw", matrix.numpy(), parts)))
    np.testing.assert_allclose(look(Fourier(step_size=0.0), task), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coefficients_of_a_picture_give_the_picture(shape):
    task = task_for(subject_of(shape), count=2)
    wanted = numbers(2, *shape)
    coefficients = torch.view_as_real(torch.fft.rfft2(4 * wanted, norm="ortho"))
    torch.testing.assert_close(Fourier(decay_power=0.0)._transformed_back(task, coefficients), wanted)


def test_without_any_transform_pictures_are_seen_as_they_are():
    images, moves = numbers(3, 3, 9, 9), numbers(3, 4)
    still = Fourier(jitter=0.0, scale=0.0, rotation=0.0)._moved(images, moves)
    assert torch.equal(still, images)
    for part in ({"jitter": 0.2}, {"scale": 0.1}, {"rotation": 10.0}):
        alone = Fourier(**({"jitter": 0.0, "scale": 0.0, "rotation": 0.0} | part))
        assert (alone._moved(images, moves) - images).abs().max() > 0.01, part
    torch.testing.assert_close(Fourier()._moved(images, torch.full((3, 4), 0.5)), images)


def test_low_frequencies_grow_most_and_pixels_show_no_preference(digits_classifier, digits):
    def share_of_low(method):
        images = look(method, task_for(digits_classifier, budget=60, references=digits[0][:40]))
        power = torch.fft.fft2(images - images.mean((2, 3), keepdim=True)).abs().square()
        low = torch.hypot(torch.fft.fftfreq(8)[:, None], torch.fft.fftfreq(8)) < 0.26
        return (power * low).sum() / power.sum()

    assert share_of_low(Fourier()) > 1.2 * share_of_low(Fourier(basis="pixels"))


# ---- MACO ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 20])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_pictures_magnitude_is_the_references_before_and_after_the_steps(shape, budget):
    """Low contrast, so that nothing is cut to [0, 1]."""
    references = pictures(shape, count=9, contrast=0.2)
    task = task_for(subject_of(shape), count=3, budget=budget, references=references)
    colours = colours_of(references)
    images = look(MACO(), task)
    assert images.min() > 0 and images.max() < 1

    def magnitudes(given):
        return np.abs(np.fft.fft2(colours.decorrelated(given).double().numpy(), norm="ortho"))

    wanted = magnitudes(references).mean(0)
    np.testing.assert_allclose(magnitudes(images), np.broadcast_to(wanted, (3, *shape)), rtol=1e-3, atol=1e-3)


def test_phases_climb_to_those_of_a_linear_networks_weights():
    """⟨w, x⟩ with the magnitudes of x given is largest where x has the phases of w: there all waves are in step."""
    shape = (1, 10, 9)
    weights = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    references = pictures(shape, contrast=0.2)
    task = task_for(subject_of(shape, weights=weights), count=2, budget=200, references=references)
    images = look(MACO(step_size=0.1, crop=1.0, crop_spread=0.0, noise=0.0), task)
    reached, best = (np.fft.rfft2(given.double().numpy()) for given in (images, weights))
    in_step = np.cos(np.angle(reached) - np.angle(best))
    in_step[..., [0, 5], 0] = 1.0  # real in every real picture of this shape: these never move
    assert in_step.min() > 0.99


def seen_by(subject, method, monkeypatch):
    """What ``method`` shows the subject in 40 steps without moving, less the picture itself: (steps, C, H, W)."""
    shown = []
    ask = VisualizationTask.activation
    monkeypatch.setattr(VisualizationTask, "activation", lambda task, images: shown.append(images) or ask(task, images))
    task = task_for(subject, count=1, budget=80, references=pictures(subject.image_shape, contrast=0.2))
    picture = look(method, task)
    return torch.cat(shown).detach(), picture


def test_noise_is_bounded_and_new_in_each_step(tiny_classifier, monkeypatch):
    shown, picture = seen_by(tiny_classifier, MACO(step_size=0.0, crop=1.0, crop_spread=0.0), monkeypatch)
    noise = shown - picture
    assert noise.abs().max() <= 0.1 + 1e-6 and noise.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
    assert len(noise.mul(1e4).round().unique(dim=0)) > 30
    assert noise.mean(0).abs().mean() < 0.02


def test_windows_stay_within_the_picture_and_differ_in_size_and_place(tiny_classifier, monkeypatch):
    shown, picture = seen_by(tiny_classifier, MACO(step_size=0.0, noise=0.0, crop=0.5, crop_spread=0.3), monkeypatch)
    assert shown.min() >= picture.min() - 1e-6 and shown.max() <= picture.max() + 1e-6
    assert len(shown.mul(1e4).round().unique(dim=0)) > 30
    detail = shown.diff(dim=3).abs().mean((1, 2, 3))  # small windows are enlarged, hence smooth
    assert detail.min() < 0.3 * detail.max()


def test_without_windows_and_noise_the_picture_itself_is_seen(tiny_classifier, monkeypatch):
    still = MACO(step_size=0.0, crop=1.0, crop_spread=0.0, noise=0.0)
    shown, picture = seen_by(tiny_classifier, still, monkeypatch)
    torch.testing.assert_close(shown, picture.expand_as(shown))


# ---- total variation -----------------------------------------------------------------------------------------------


def test_an_exponent_of_two_is_the_projects_total_variation():
    images = numbers(4, 3, 6, 9)
    torch.testing.assert_close(total_variation(images, 2.0), ops.total_variation(images))


@pytest.mark.parametrize("exponent", [1.0, 1.5])
def test_total_variation_agrees_with_plain_loops(exponent):
    images = numbers(2, 2, 4, 5)
    for image, value in zip(images, total_variation(images, exponent), strict=True):
        wanted = 0.0
        for c, i, j in np.ndindex(image.shape):
            down = image[c, i + 1, j] - image[c, i, j] if i < 3 else torch.tensor(0.0)
            right = image[c, i, j + 1] - image[c, i, j] if j < 4 else torch.tensor(0.0)
            wanted += math.hypot(down.item(), right.item()) ** exponent
        assert value.item() == pytest.approx(wanted, rel=1e-4)


def test_a_flat_picture_has_no_total_variation_and_a_gradient():
    flat = torch.full((2, 3, 5, 5), 0.3, requires_grad=True)
    value = total_variation(flat, 1.0)
    value.sum().backward()
    assert value.max() < 1e-3
    assert torch.equal(flat.grad, torch.zeros_like(flat))


@pytest.mark.parametrize("spread", [0.4, 1.3])
def test_blurring_is_that_of_scipy(spread):
    images = numbers(2, 3, 11, 8)
    reach = math.ceil(3 * spread)
    wanted = ndimage.gaussian_filter(
        images.double().numpy(), (0, 0, spread, spread), mode="nearest", truncate=reach / spread
    )
    np.testing.assert_allclose(blurred(images, spread), wanted, atol=1e-6)


def test_on_a_linear_network_every_pixel_walks_straight_to_its_end():
    """Adam divides a gradient that never changes by itself: each step has the schedule's size."""
    weights = torch.randn(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    task = task_for(subject_of((1, 6, 5), weights=weights), count=2, budget=80)
    free = TotalVariationAscent(smoothness=0.0, decay=0.0, jitter=0.0, step_size=0.01)
    sizes = [0.5, 1.0] + [(1 + math.cos(math.pi * step / 38)) / 2 for step in range(38)]  # two of 40 steps warm up
    start = task.noise().clamp(0, 1)  # the subject's mean is 0 and its deviation 1
    way = 0.01 * sum(sizes) * weights.sign()
    torch.testing.assert_close(look(free, task), (start + way).clamp(0, 1), atol=1e-5, rtol=0.0)


def test_each_regulariser_does_what_it_is_for(digits_classifier):
    task = task_for(digits_classifier, count=4, budget=40)

    def pictures_with(**settings):
        return look(TotalVariationAscent(**({"smoothness": 0.0, "decay": 0.0, "jitter": 0.0} | settings)), task)

    def roughness(images):
        return images.diff(dim=2).square().mean()

    free = pictures_with()
    assert roughness(pictures_with(smoothness=100.0)) < 0.5 * roughness(free)
    assert roughness(pictures_with(blur=1.0, blur_every=1)) < 0.5 * roughness(free)
    assert (pictures_with(decay=100.0) - 0.5).abs().mean() < 0.5 * (free - 0.5).abs().mean()
    assert not torch.equal(pictures_with(jitter=0.2), free)
