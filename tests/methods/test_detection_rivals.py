"""The detectors that need no gates against their formulas, written by other hands."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from skimage.restoration import denoise_nl_means
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity as ReferenceDensity

from bench import registry
from bench.contract import SetupError, Skip
from methods.detection import _learned
from methods.detection.feature_squeezing import FeatureSqueezing, median_filtered, non_local_means, with_fewer_bits
from methods.detection.kernel_density import KernelDensity
from methods.detection.local_intrinsic_dimensionality import LocalIntrinsicDimensionality, dimensionality
from methods.detection.mahalanobis import Mahalanobis, gaussians_of
from tests.methods.detection_tasks import detection_task, judged


def pictures(count, seed, shape=(3, 8, 8)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def learning_task(model, images=None, **fields):
    """Five to judge if nothing else is said, clean pictures of three classes, and known attacks, which are pale."""
    clean, known = pictures(48, 1), pictures(24, 2)
    attacked = torch.arange(24) % 3 == 2
    known = torch.where(attacked[:, None, None, None], 0.5 + 0.2 * known, known)
    defaults = {
        "clean": clean,
        "clean_labels": torch.arange(48) % 3,
        "known": known,
        "known_attacked": attacked,
        "known_originals": torch.arange(24) // 3,
        "known_labels": torch.arange(24) // 3 % 3,
    }
    return detection_task(model, pictures(5, 0) if images is None else images, **(defaults | fields))


# ---- learning from known attacks -----------------------------------------------------------------------------------


LEARNERS = [Mahalanobis, LocalIntrinsicDimensionality]


def test_the_first_originals_of_each_class_are_learned_from_with_all_that_was_made_of_them(tiny_classifier):
    originals = torch.tensor([7, 7, 3, 3, 5, 5, 9, 9])
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    known = torch.arange(8.0)[:, None, None, None].expand(8, 3, 8, 8) / 8
    attacked = torch.arange(8) % 2 == 1
    task = detection_task(
        tiny_classifier,
        known[:1],
        known=known,
        known_attacked=attacked,
        known_originals=originals,
        known_labels=labels,
    )
    examples = _learned.examples_of(task, 1)
    assert (examples.images[:, 0, 0, 0] * 8).tolist() == [2, 3, 4, 5]
    assert examples.attacked.tolist() == [False, True, False, True]
    assert len(_learned.examples_of(task, 2).images) == len(_learned.examples_of(task, None).images) == 8


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize(("attacked", "others"), [(0, 0), (0, 4), (4, 0)])
def test_with_nothing_to_tell_apart_the_cell_is_skipped_and_says_what_there_was(
    tiny_classifier, kind, attacked, others
):
    flags = torch.tensor([True] * attacked + [False] * others, dtype=torch.bool)
    task = learning_task(
        tiny_classifier,
        known=pictures(len(flags), 2),
        known_attacked=flags,
        known_originals=torch.arange(len(flags)),
        known_labels=torch.zeros(len(flags), dtype=torch.int64),
    )
    with pytest.raises(Skip, match=f"has {attacked} and {others}$"):
        kind().fit(task)


@pytest.mark.parametrize("kind", LEARNERS)
def test_pictures_like_the_known_attacks_are_more_suspicious(tiny_classifier, kind):
    plain, pale = pictures(20, 5), 0.5 + 0.2 * pictures(20, 6)
    task = learning_task(tiny_classifier, torch.cat([plain, pale]))
    scores = judged(kind(), task)
    assert scores.dtype == torch.float32 and scores.isfinite().all()
    assert roc_auc_score(torch.arange(40) >= 20, scores) > 0.85


@pytest.mark.parametrize(
    ("method", "learning", "scoring"),
    [
        (Mahalanobis(), 48 + 24, 5),
        (Mahalanobis(originals_per_class=1), 48 + 9, 5),
        (Mahalanobis(step=0.01), 48 + 9 * 24, 9 * 5),  # three taps
        (LocalIntrinsicDimensionality(), 48 + 24, 5),
        (LocalIntrinsicDimensionality(minibatch=30), 30 + 24, 5),
        (KernelDensity(), 48, 5),
        (FeatureSqueezing(), 0, 20),
        (FeatureSqueezing(bits=1, search=0), 0, 15),
    ],
    ids=lambda value: repr(value) if not isinstance(value, int) else "",
)
def test_passes_spent_are_what_why_not_asks_for_at_most(tiny_classifier, method, learning, scoring):
    task = learning_task(tiny_classifier)
    judged(method, task)
    assert tiny_classifier.passes.total == learning + scoring
    enough = math.ceil((learning + scoring) / 5)
    assert method.why_not(task.replace(budget=enough - 1)) is not None
    whole = getattr(method, "originals_per_class", None) is None
    assert not whole or method.why_not(task.replace(budget=enough)) is None


def test_the_reason_to_skip_says_what_is_needed(tiny_classifier):
    reason = KernelDensity().why_not(learning_task(tiny_classifier, budget=10))
    assert reason == "needs 1 passes an image and 48 to learn, 10.6 an image in all, the budget is 10"


# ---- mahalanobis ---------------------------------------------------------------------------------------------------


def channel_means(model, images, tap):
    """(B, D) in numpy, one image and one channel at a time."""
    rows = []
    for image in images:
        (features,) = model.features(image[None], tap)
        rows.append([channel.double().mean().item() for channel in features])
    return np.array(rows)


def test_nearness_is_scikit_learns_distance_to_the_nearest_class(tiny_classifier):
    task = learning_task(tiny_classifier)
    gaussians = gaussians_of(tiny_classifier, task.clean, task.clean_labels)
    found = Mahalanobis().nearness(tiny_classifier, gaussians, task.images)
    labels = task.clean_labels.numpy()
    for column, tap in enumerate(tiny_classifier.taps):
        clean, images = (channel_means(tiny_classifier, x, tap) for x in (task.clean, task.images))
        means = [clean[labels == label].mean(0) for label in range(3)]
        within = np.stack([row - means[label] for row, label in zip(clean, labels, strict=True)])
        reference = EmpiricalCovariance(assume_centered=True).fit(within)
        expected = [-reference.mahalanobis(images - mean) for mean in means]
        np.testing.assert_allclose(found[:, column], np.max(expected, 0), rtol=1e-4)


def test_a_class_without_clean_pictures_has_no_cloud(tiny_classifier):
    images, labels = pictures(12, 0), torch.tensor([0, 7] * 6)
    gaussians = gaussians_of(tiny_classifier, images, labels)
    assert [len(clouds.means) for clouds in gaussians.values()] == [2, 2, 2]


def test_a_direction_in_which_clean_pictures_do_not_vary_does_not_count(linear_classifier):
    model = linear_classifier(torch.ones(2, 1, 1, 2))
    clean = torch.tensor([[0.2, 0.5], [0.4, 0.5], [0.6, 0.5], [0.8, 0.5]])[:, None, None]
    gaussians = gaussians_of(model, clean, torch.zeros(4, dtype=torch.int64))
    images = torch.tensor([[0.9, 0.5], [0.9, 0.0]])[:, None, None]
    expected = -(0.4**2) / 0.05  # variance (0.3² + 0.1² + 0.1² + 0.3²) / 4
    assert Mahalanobis().nearness(model, gaussians, images)[:, 0].tolist() == pytest.approx([expected] * 2, rel=1e-4)


def test_the_step_goes_towards_the_nearest_class(linear_classifier):
    model = linear_classifier(torch.ones(2, 1, 1, 2))
    clean = torch.tensor([[0.0, 0.2], [0.4, 0.2], [0.2, 0.0], [0.2, 0.4]])[:, None, None]  # variance 0.02 each way
    gaussians = gaussians_of(model, clean, torch.zeros(4, dtype=torch.int64))
    image = torch.tensor([0.5, 0.1])[None, None, None]
    found = Mahalanobis(step=0.03).nearness(model, gaussians, image)
    assert found.item() == pytest.approx(-((0.3 - 0.03) ** 2 + (0.1 - 0.03) ** 2) / 0.02, rel=1e-4)


def test_without_clean_pictures_mahalanobis_and_density_are_skipped(tiny_classifier):
    task = learning_task(tiny_classifier, clean=pictures(0, 0), clean_labels=torch.arange(0))
    for method in (Mahalanobis(), KernelDensity()):
        with pytest.raises(Skip, match="clean pictures, has 0"):
            method.fit(task)


# ---- local intrinsic dimensionality --------------------------------------------------------------------------------


def dimensionality_by_loops(point, among, k):
    nearest = sorted(math.dist(point, other) for other in among)[:k]
    return -1 / (sum(math.log(r / nearest[-1]) for r in nearest) / k)


def test_dimensionality_is_the_formula_in_plain_loops():
    points, among = (torch.randn(n, 7, generator=torch.Generator().manual_seed(n)) for n in (4, 40))
    expected = [dimensionality_by_loops(point, among.tolist(), 20) for point in points.tolist()]
    assert dimensionality(points, among, 20).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dimensions", [2, 5])
def test_points_that_fill_a_ball_have_its_dimension(dimensions):
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(20_000, dimensions, generator=draw)
    radii = torch.rand(20_000, 1, generator=draw) ** (1 / dimensions)
    ball = directions / directions.norm(dim=1, keepdim=True) * radii
    flat = torch.nn.functional.pad(ball, (0, 4))  # in a larger space
    estimate = dimensionality(torch.zeros(1, dimensions + 4), flat, 2000).item()
    assert estimate == pytest.approx(dimensions, rel=0.1)  # four standard errors of 1 / √2000


def test_a_picture_among_its_equals_and_one_as_far_from_all_stay_finite():
    among = torch.eye(6)
    assert dimensionality(torch.cat([among[:1], torch.zeros(1, 6)]), among, 5).tolist() == [
        pytest.approx(0, abs=0.1),
        pytest.approx(1e6),
    ]


def test_whole_activations_of_the_first_clean_pictures_are_compared(tiny_classifier):
    task = learning_task(tiny_classifier)
    method = LocalIntrinsicDimensionality(neighbours=6, minibatch=30)
    clean = method.fit(task).clean
    found = method.dimensionalities(tiny_classifier, clean, task.images)
    for column, tap in enumerate(tiny_classifier.taps):
        among, points = (tiny_classifier.features(x, tap).flatten(1).tolist() for x in (task.clean[:30], task.images))
        expected = [dimensionality_by_loops(point, among, 6) for point in points]
        assert found[:, column].tolist() == pytest.approx(expected, rel=1e-4)


def test_fewer_clean_pictures_than_neighbours_skip_the_cell(tiny_classifier):
    with pytest.raises(Skip, match="needs 20 clean pictures as neighbours, has 12"):
        LocalIntrinsicDimensionality(minibatch=12).fit(learning_task(tiny_classifier))


# ---- kernel density ------------------------------------------------------------------------------------------------


def features_of(model, images):
    return model.features(images, "penultimate").double().numpy()


def test_score_is_scikit_learns_density_of_the_predicted_class(tiny_classifier):
    images, clean = pictures(6, 0), pictures(200, 1)
    with torch.no_grad():
        labels = tiny_classifier(clean).argmax(1)
        predicted = tiny_classifier(images).argmax(1)
    assert set(predicted.tolist()) <= set(labels.tolist())
    task = detection_task(tiny_classifier, images, clean=clean, clean_labels=labels)
    for image, label, score in zip(images, predicted, judged(KernelDensity(bandwidth=2.0), task), strict=True):
        reference = ReferenceDensity(bandwidth=2.0).fit(features_of(tiny_classifier, clean[labels == label]))
        expected = -reference.score_samples(features_of(tiny_classifier, image[None]))[0]
        assert score.item() == pytest.approx(expected, rel=1e-5)


def test_a_class_without_clean_pictures_is_judged_by_all(tiny_classifier):
    images, clean = pictures(1, 0), pictures(8, 1)
    with torch.no_grad():
        others = (tiny_classifier(images).argmax(1) + 1).expand(8) % 10
    task = detection_task(tiny_classifier, images, clean=clean, clean_labels=others)
    reference = ReferenceDensity(bandwidth=2.0).fit(features_of(tiny_classifier, clean))
    expected = -reference.score_samples(features_of(tiny_classifier, images))[0]
    assert judged(KernelDensity(bandwidth=2.0), task).item() == pytest.approx(expected, rel=1e-5)


def test_the_bandwidth_chosen_makes_clean_pictures_likelier_than_narrower_and_wider_ones(tiny_classifier):
    clean, labels = pictures(24, 1), torch.arange(24) % 3
    task = detection_task(tiny_classifier, pictures(1, 0), clean=clean, clean_labels=labels)
    chosen = KernelDensity().fit(task).bandwidth
    features = features_of(tiny_classifier, clean)

    def likelihood(bandwidth):
        total = 0.0
        for left_out in range(24):
            others = [i for i in range(24) if i != left_out and labels[i] == labels[left_out]]
            reference = ReferenceDensity(bandwidth=bandwidth).fit(features[others])
            total += reference.score_samples(features[left_out : left_out + 1])[0]
        return total

    assert likelihood(chosen) > max(likelihood(chosen / 1.2), likelihood(chosen * 1.2))


def test_without_two_clean_pictures_of_a_class_there_is_no_bandwidth_to_choose(tiny_classifier):
    task = detection_task(tiny_classifier, pictures(1, 0), clean=pictures(3, 1), clean_labels=torch.arange(3))
    with pytest.raises(Skip, match="pairs of clean pictures of one class, has 3 pictures and none"):
        KernelDensity().fit(task)
    assert judged(KernelDensity(bandwidth=1.0), task).isfinite().all()


# ---- feature squeezing ---------------------------------------------------------------------------------------------


def test_one_bit_leaves_black_and_white():
    assert with_fewer_bits(torch.tensor([0.0, 0.49, 0.51, 1.0]), 1).tolist() == [0, 0, 1, 1]


def test_five_bits_leave_32_levels_and_move_no_intensity_by_more_than_half_of_one():
    intensities = torch.linspace(0, 1, 1001)
    coarse = with_fewer_bits(intensities, 5)
    assert len(coarse.unique()) == 32
    assert (coarse - intensities).abs().max() <= 1 / 62 + 1e-6


@pytest.mark.parametrize("side", [2, 3])
def test_the_median_filter_is_scipys(side):
    images = pictures(2, 0)
    expected = median_filter(images.numpy(), size=(1, 1, side, side), mode="nearest")
    np.testing.assert_array_equal(median_filtered(images, side).numpy(), expected)


def non_local_means_by_loops(image, search, patch, strength):
    """Of one (C, H, W) image, pixel by pixel."""
    channels, height, width = image.shape

    def at(channel, i, j):
        return image[channel, min(max(i, 0), height - 1), min(max(j, 0), width - 1)].item()

    def offsets(side):
        return [(i, j) for i in range(-(side // 2), side // 2 + 1) for j in range(-(side // 2), side // 2 + 1)]

    out = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            weights = {}
            for di, dj in offsets(search):
                squares = [
                    (at(c, i + a, j + b) - at(c, i + a + di, j + b + dj)) ** 2
                    for c in range(channels)
                    for a, b in offsets(patch)
                ]
                weights[di, dj] = math.exp(-sum(squares) / len(squares) / strength**2)
            for c in range(channels):
                out[c, i, j] = sum(w * at(c, i + di, j + dj) for (di, dj), w in weights.items()) / sum(weights.values())
    return out


def test_non_local_means_are_their_definition_in_plain_loops():
    (image,) = pictures(1, 0, (2, 5, 4))
    expected = non_local_means_by_loops(image, 5, 3, 0.4)
    torch.testing.assert_close(non_local_means(image[None], 5, 3, 0.4)[0], expected, atol=1e-5, rtol=0)


def test_non_local_means_are_close_to_those_of_scikit_image_away_from_the_edge():
    image = 0.5 + 0.05 * torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(0))
    reference = denoise_nl_means(
        image.double().numpy(), patch_size=3, patch_distance=3, h=0.1, fast_mode=True, channel_axis=0
    )
    found = non_local_means(image[None], 7, 3, 0.1)[0].double()
    inner = (slice(None), slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(found[inner], reference[inner], atol=4e-3)  # its fast patches lack a row and a column
    assert abs(image[inner].double().numpy() - reference[inner]).mean() > 0.02  # there was something to smooth


def test_the_score_is_the_largest_change_of_the_answer(tiny_classifier):
    contrasts = torch.tensor([1.0, 0.5, 0.1, 0.02])[:, None, None, None]
    images = 0.5 + contrasts * (pictures(4, 0) - 0.5)
    method = FeatureSqueezing(strength=0.05)

    def answer(picture):
        (logits,) = tiny_classifier(picture[None]).tolist()
        total = sum(math.exp(logit) for logit in logits)
        return [math.exp(logit) / total for logit in logits]

    squeezed = [
        torch.round(images * 31) / 31,
        torch.from_numpy(median_filter(images.numpy(), size=(1, 1, 2, 2), mode="nearest")),
        torch.stack([non_local_means(image[None], 13, 3, 0.05)[0] for image in images]),
    ]
    scores = method.score(detection_task(tiny_classifier, images)).tolist()
    deciding = set()
    for i, score in enumerate(scores):
        before = answer(images[i])
        gaps = [sum(abs(a - b) for a, b in zip(answer(s[i]), before, strict=True)) for s in squeezed]
        assert score == pytest.approx(max(gaps), rel=1e-4)
        deciding.add(gaps.index(max(gaps)))
    assert len(deciding) > 1


def test_what_squeezing_does_not_change_is_not_suspicious(tiny_classifier):
    grey = torch.full((1, 3, 8, 8), 1.0)
    assert FeatureSqueezing().score(detection_task(tiny_classifier, grey)).item() == pytest.approx(0, abs=1e-6)


def test_squeezers_that_make_no_sense_are_refused():
    with pytest.raises(SetupError, match="no squeezer"):
        FeatureSqueezing(bits=0, median=0, search=0)
    with pytest.raises(SetupError, match=re.escape("search 12 and patch 3 should be odd")):
        FeatureSqueezing(search=12)


def test_the_variants_are_the_squeezers_the_paper_joins_elsewhere():
    grey, large = (registry.make_method("detection/feature_squeezing", name) for name in ("mnist", "imagenet"))
    assert (grey.bits, grey.median, grey.search) == (1, 2, 0)
    assert (large.bits, large.median, large.search, large.strength) == (5, 2, 11, 4 / 255)
