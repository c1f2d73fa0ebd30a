"""DeepInversion, the table of class prototypes, and pixel ascent with diversity terms."""

import numpy as np
import pytest
import torch
from torch import nn

from bench import registry
from bench._batch_norm import watched
from bench.contract import BudgetExceeded, Diverged, InversionTask, PassCounter
from bench.zoo.classifier import Classifier
from methods.inversion import class_prototype_table
from methods.inversion.class_prototype_table import ClassPrototypeTable
from methods.inversion.deep_inversion import DeepInversion, statistics_distance
from methods.inversion.diverse_ascent import DiverseAscent

RIVALS = [DeepInversion(), ClassPrototypeTable(), DiverseAscent()]
each_rival = pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: type(rival).__name__)


def numbers(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def task_for(model, *, labels=None, count=10, budget=20, seed=0):
    labels = torch.arange(count) % model.num_classes if labels is None else torch.tensor(labels)
    return InversionTask(model=model, places=torch.arange(len(labels)), seed=seed, budget=budget, labels=labels)


def look(method, task):
    return method.invert(task.replace(fitted=method.fit(task)) if hasattr(method, "fit") else task)


def hooks_on(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def wrap(network, shape, classes=10):
    """The network as it stands: what it gets is what comes in."""
    channels = shape[0]
    return Classifier(
        network.eval(), name="made", image_shape=shape, num_classes=classes, mean=[0.0] * channels,
        std=[1.0] * channels, taps={},
    )  # fmt: skip


def seeded(network, seed=0):
    """Weights and running statistics from the seed; variances are positive."""
    for place, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            tensor.copy_(numbers(*tensor.shape, seed=100 * seed + place) - (0 if name.endswith("var") else 0.5))
    return network


# ---- what all three keep to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rival", [DeepInversion(jitter=0), *RIVALS[1:]], ids=lambda rival: type(rival).__name__)
def test_every_image_gets_the_label_asked_for(digits_classifier, rival):
    """On images of 8 px a shift of 2 is another digit."""
    task = task_for(digits_classifier, count=40, budget=80)
    assert (digits_classifier(look(rival, task)).argmax(1) == task.labels).float().mean() >= 0.95


@each_rival
def test_images_are_intensities_and_the_subject_is_left_as_it_was(digits_classifier, rival):
    before = digits_classifier.checksum(), hooks_on(digits_classifier)
    images = look(rival, task_for(digits_classifier))
    assert images.shape == (10, 1, 8, 8) and images.dtype == torch.float32 and not images.requires_grad
    assert images.min() >= 0 and images.max() <= 1
    assert (digits_classifier.checksum(), hooks_on(digits_classifier)) == before


@each_rival
def test_the_whole_budget_goes_into_steps_of_two_passes_and_no_more(tiny_classifier, rival):
    tiny_classifier.passes = PassCounter(limit=21 * 10)
    look(rival, task_for(tiny_classifier, budget=21))  # ten images of ten classes
    assert (tiny_classifier.passes.forward, tiny_classifier.passes.backward) == (100, 100)


@each_rival
def test_a_run_cut_short_leaves_no_hook(tiny_classifier, rival):
    tiny_classifier.passes = PassCounter(limit=35)
    with pytest.raises(BudgetExceeded):
        look(rival, task_for(tiny_classifier))
    assert hooks_on(tiny_classifier) == 0


@each_rival
def test_numbers_that_are_not_finite_are_called_diverged(linear_classifier, rival):
    broken = task_for(linear_classifier(torch.full((2, 1, 4, 4), torch.nan)), labels=[0, 1])
    settings = {"statistics": 0.0} if isinstance(rival, DeepInversion) else {}
    with pytest.raises(Diverged, match="2 of 2 images are not finite"):
        look(type(rival)(**settings), broken)


@each_rival
def test_a_batch_may_hold_a_single_image(digits_classifier, rival):
    assert look(rival, task_for(digits_classifier, labels=[3])).isfinite().all()


@each_rival
def test_too_small_a_budget_is_a_reason_to_skip(tiny_classifier, rival):
    assert rival.why_not(task_for(tiny_classifier, budget=2)) is None
    said = {
        ClassPrototypeTable: "needs 2 passes a class, 20 in all, the cell has 10",
    }.get(type(rival), "needs 2 passes an image, the budget is 1")
    assert rival.why_not(task_for(tiny_classifier, budget=1)) == said


@pytest.mark.parametrize(
    ("stem", "alone"), [("deep_inversion", False), ("class_prototype_table", True), ("diverse_ascent", False)]
)
def test_the_cards_say_whose_images_depend_on_each_other(stem, alone):
    assert registry.method_card(f"inversion/{stem}").alone is alone


# ---- against Adam written out in NumPy -----------------------------------------------------------------------------


def adam(pixels, gradient_at, *, steps, step_size, keep=lambda pixels: pixels):
    mean, square = np.zeros_like(pixels), np.zeros_like(pixels)
    for step in range(1, steps + 1):
        gradient = gradient_at(pixels)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        pixels = pixels - step_size * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        pixels = keep(pixels)
    return pixels


def sigmoid(pixels):
    return 1 / (1 + np.exp(-pixels))


def cross_entropy_slope(weights, labels, images):
    """Of each image's −log softmax(⟨w_k, x − 1/2⟩)_y by the image."""
    flat = weights.reshape(len(weights), -1)
    logits = (images.reshape(len(images), -1) - 0.5) @ flat.T
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return ((chances - np.eye(len(weights))[labels]) @ flat).reshape(images.shape)


def roughness_slope(inside):
    """Of Σ (down neighbour − x)² + Σ (right neighbour − x)² by x."""
    slope = np.zeros_like(inside)
    for image, channel, row, column in np.ndindex(inside.shape):
        here = inside[image, channel, row, column]
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if 0 <= row + down < inside.shape[2] and 0 <= column + right < inside.shape[3]:
                slope[image, channel, row, column] += 2 * (here - inside[image, channel, row + down, column + right])
    return slope


WEIGHTS, LABELS = numbers(3, 1, 4, 4, seed=1) * 4 - 2, [2, 0, 1, 2]


def test_deep_inversion_without_statistics_takes_the_steps_of_adam_by_hand(linear_classifier):
    task = task_for(linear_classifier(WEIGHTS), labels=LABELS, budget=10)

    def gradient_at(images):
        inside = 2 * images - 1  # what the wrapper makes of them; hence the factors 2
        priors = 2 * (0.3 * roughness_slope(inside) + 0.2 * 2 * inside) / inside.size
        return cross_entropy_slope(WEIGHTS.double().numpy(), LABELS, images) / len(images) + priors

    start = (0.5 + 0.5 * task.noise().double().numpy()).clip(0, 1)
    cut = {"keep": lambda images: images.clip(0, 1)}
    expected = adam(start, gradient_at, steps=5, step_size=0.1, **cut)
    made = DeepInversion(statistics=0.0, smoothness=0.3, decay=0.2, jitter=0, step_size=0.1).invert(task)
    assert np.allclose(made.numpy(), expected, atol=1e-5)
    assert ((expected == 0) | (expected == 1)).any(), "the cut was put to the test"


def test_a_prototype_takes_the_steps_of_adam_by_hand(linear_classifier):
    task = task_for(linear_classifier(WEIGHTS), labels=LABELS, budget=9)  # 36 passes pay 6 steps of three classes
    start = 0.1 * task.replace(places=torch.arange(3)).noise("class").double().numpy()

    def gradient_at(pixels):
        images = sigmoid(pixels)
        return cross_entropy_slope(WEIGHTS.double().numpy(), [0, 1, 2], images) * images * (1 - images)

    expected = sigmoid(adam(start, gradient_at, steps=6, step_size=0.05))
    assert np.allclose(look(ClassPrototypeTable(), task).numpy(), expected[LABELS], atol=1e-5)


@pytest.mark.parametrize("settings", [{"cosine": 0.0, "orthogonality": 0.0}, {"pairs": "same_class"}])
def test_diverse_ascent_takes_the_steps_of_adam_by_hand(linear_classifier, settings):
    """The features of a linear network are its input. Slopes of the diversity terms by central differences."""
    task = task_for(linear_classifier(WEIGHTS), labels=LABELS, budget=10)
    start = 0.1 * task.noise().double().numpy()
    diverse = settings.get("cosine", 1.0)

    def likeness(images):
        features = 2 * images.reshape(len(images), -1) - 1
        unit = [row / np.sqrt((row**2).sum()) for row in features]
        same = [(i, j) for i in range(4) for j in range(4) if i != j and LABELS[i] == LABELS[j]]
        cosine = sum(unit[i] @ unit[j] for i, j in same) / len(same)
        gram = sum((unit[i] @ unit[j] - (i == j)) ** 2 for i in range(4) for j in range(4)) / 16
        return diverse * (cosine + gram)

    def gradient_at(pixels):
        images = sigmoid(pixels)
        slope = cross_entropy_slope(WEIGHTS.double().numpy(), LABELS, images) / 4
        for place in np.ndindex(images.shape):
            nudge = np.zeros_like(images)
            nudge[place] = 1e-6
            slope[place] += (likeness(images + nudge) - likeness(images - nudge)) / 2e-6
        return slope * images * (1 - images)

    expected = sigmoid(adam(start, gradient_at, steps=5, step_size=0.05))
    assert np.allclose(DiverseAscent(**settings).invert(task).numpy(), expected, atol=1e-4)


# ---- DeepInversion: what BatchNorm remembers -----------------------------------------------------------------------


def by_loops(layer, entered):
    """‖mean − running mean‖ + ‖variance − running variance‖, a channel at a time."""
    wrong_means, wrong_variances = [], []
    for channel in range(entered.shape[1]):
        values = entered[:, channel].double().flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        wrong_means.append(mean - layer.running_mean[channel].item())
        wrong_variances.append(variance - layer.running_var[channel].item())
    return sum(sum(wrong**2 for wrong in each) ** 0.5 for each in (wrong_means, wrong_variances))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.BatchNorm2d(5), (3, 5, 4, 6)), (nn.BatchNorm1d(5), (7, 5)), (nn.BatchNorm1d(5), (2, 5, 9))],
)
def test_the_distance_of_one_layer_is_its_definition(layer, shape):
    entered = numbers(*shape)
    found = statistics_distance(seeded(layer), entered).item()
    assert found == pytest.approx(by_loops(layer, entered), rel=1e-5)


def all_layers(seen, images):
    return sum(statistics_distance(layer, entered).item() for layer, entered in seen.of(images))


def test_a_batch_with_the_statistics_remembered_is_at_no_distance():
    entered = numbers(6, 3, 4, 4)
    layer = nn.BatchNorm2d(3)
    layer.running_mean.copy_(entered.mean((0, 2, 3)))
    layer.running_var.copy_(entered.permute(1, 0, 2, 3).flatten(1).var(1, correction=0))
    assert statistics_distance(layer, entered).item() < 1e-6


@pytest.mark.parametrize("count", [3, 5, 8, 11])
def test_the_distance_sums_over_the_layers_and_leaves_out_what_fills_the_batch(count):
    """The wrapper fills batches to a multiple of eight; by hand nothing is filled."""
    stages = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6)]
    network = seeded(nn.Sequential(*stages, nn.Linear(6, 10))).eval()
    model, images = wrap(network, (2, 6, 6)), numbers(count, 2, 6, 6)
    with watched(model) as seen, torch.no_grad():
        model(numbers(9, 2, 6, 6, seed=3))  # forgotten by the next pass
        model(images)
        found = all_layers(seen, count)
        expected = by_loops(network[1], network[0](images)) + by_loops(network[5], network[:5](images))
    assert found == pytest.approx(expected, rel=1e-4)
    assert hooks_on(model) == 0


class Tokens(nn.Module):
    """BatchNorm over the tokens of all images in one axis, as some vision transformers have it."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 10)

    def forward(self, images):
        tokens = images.flatten(2).mT  # (B, tokens, 4)
        return self.head(self.norm(tokens.flatten(0, 1)).view_as(tokens).mean(1))


def test_tokens_of_images_that_fill_the_batch_are_left_out_too():
    model, images = wrap(seeded(Tokens()), (4, 3, 3)), numbers(3, 4, 3, 3)
    with watched(model) as seen, torch.no_grad():
        model(images)
        found = all_layers(seen, 3)
    assert found == pytest.approx(by_loops(model.network.norm, images.flatten(2)), rel=1e-5)


def test_the_statistics_come_nearer_and_their_loss_is_why(digits_classifier):
    task = task_for(digits_classifier, count=40, budget=80)

    def distance(images):
        with watched(digits_classifier) as seen, torch.no_grad():
            digits_classifier(images)
            return all_layers(seen, len(images))

    reached, control = (distance(DeepInversion(statistics=weight).invert(task)) for weight in (1.0, 0.0))
    start = distance((0.5 + 0.5 * task.noise()).clamp(0, 1))
    assert reached < 0.5 * start
    assert reached < 0.5 * control


def test_a_network_without_batch_norm_is_no_case_for_it_but_for_the_control(linear_classifier):
    task = task_for(linear_classifier(WEIGHTS), labels=LABELS)
    assert DeepInversion().why_not(task) == "needs BatchNorm, tiny has none"
    assert registry.make_method("inversion/deep_inversion", "no_batch_norm").why_not(task) is None


def test_batch_norm_that_remembers_nothing_does_not_count():
    network = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(16, 10))
    task = task_for(wrap(network, (1, 4, 4)))
    assert DeepInversion().why_not(task) == "needs BatchNorm, made has none"


def test_each_image_is_shifted_and_mirrored_by_its_own_numbers():
    images, moves = numbers(50, 2, 5, 7), numbers(50, 3, seed=4)
    moved = DeepInversion(jitter=2, flip=True)._moved(images, moves)
    met = set()
    for image, (down, right, mirror), result in zip(images, moves.tolist(), moved, strict=True):
        shifts = int(5 * down) - 2, int(5 * right) - 2
        expected = np.roll(image.numpy(), shifts, axis=(1, 2))
        assert np.array_equal(result.numpy(), expected[..., ::-1] if mirror < 0.5 else expected)
        met.update(shifts)
    assert met == {-2, -1, 0, 1, 2}


def test_nothing_moves_when_no_move_is_asked_for():
    images = numbers(3, 1, 4, 4)
    assert torch.equal(DeepInversion(jitter=0)._moved(images, numbers(3, 3)), images)


# ---- prototypes ----------------------------------------------------------------------------------------------------


def test_images_of_a_class_are_one_image_and_those_of_two_classes_are_not(digits_classifier):
    images = look(ClassPrototypeTable(), task_for(digits_classifier, count=30, budget=40))
    assert torch.equal(images[:10], images[10:20]) and torch.equal(images[:10], images[20:])
    assert torch.pdist(images[:10].flatten(1)).min() > 0.1


def test_a_prototype_depends_on_its_class_and_seed_alone(digits_classifier):
    table = ClassPrototypeTable(steps=10)
    few = look(table, task_for(digits_classifier, labels=[7, 3, 7, 7]))
    many = look(table, task_for(digits_classifier, labels=[0, 1, 2, 7, 3, 9]))
    torch.testing.assert_close(few[:2], many[3:5], atol=1e-5, rtol=0)
    other = look(table, task_for(digits_classifier, labels=[7, 3, 7, 7], seed=1))
    assert (few - other).abs().flatten(1).amax(1).min() > 1e-3


def test_prototypes_do_not_depend_on_how_many_go_through_at_once(tiny_classifier, monkeypatch):
    task = task_for(tiny_classifier)
    whole = look(ClassPrototypeTable(), task)
    monkeypatch.setattr(class_prototype_table, "BATCH", 3)
    torch.testing.assert_close(look(ClassPrototypeTable(), task), whole, atol=1e-5, rtol=0)


def test_passes_that_prototypes_do_not_need_stay_unspent(tiny_classifier):
    look(ClassPrototypeTable(steps=7), task_for(tiny_classifier, labels=[1, 4] * 10, budget=50))
    assert tiny_classifier.passes.total == 2 * 7 * 2


# ---- diversity without a generator ---------------------------------------------------------------------------------


def same_class_cosine(model, images, labels):
    with torch.no_grad():
        features = model.features(images, "penultimate").double().numpy()
    unit = [row / np.sqrt((row**2).sum()) for row in features]
    pairs = [(i, j) for i in range(len(unit)) for j in range(i) if labels[i] == labels[j]]
    return sum(unit[i] @ unit[j] for i, j in pairs) / len(pairs)


def test_diversity_terms_part_the_features_of_a_class_and_same_class_pairs_do_it_most(digits_classifier):
    task = task_for(digits_classifier, count=40, budget=120)
    variants = ("same_class", "default", "no_diversity")
    made = [registry.make_method("inversion/diverse_ascent", variant).invert(task) for variant in variants]
    strongest, published, none = (same_class_cosine(digits_classifier, images, task.labels) for images in made)
    assert strongest < published < none
    assert strongest < none - 0.1


def test_an_image_without_batch_mates_pays_for_no_likeness(digits_classifier):
    task = task_for(digits_classifier, labels=[6])
    plain = DiverseAscent(cosine=0.0, orthogonality=0.0).invert(task)
    torch.testing.assert_close(DiverseAscent().invert(task), plain, atol=1e-5, rtol=0)
