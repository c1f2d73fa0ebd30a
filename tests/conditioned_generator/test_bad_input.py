"""What a wrong request gets: one or more tests for each line of the specification's table, in its order.

Unless said otherwise it is refused before anything is trained, by a message with the value and the limit.
"""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.conditioned_generator import Additions, Recipe, losses
from bench.conditioned_generator.conditions import first_argmax
from bench.contract import Diverged, SetupError, ShapeError
from tests.conditioned_generator.worlds import PROBE, SHAPE, Watch, cell, linear_map, linear_subject, trained, wrapped

Refusal = Callable[..., str]


@pytest.fixture
def refusal(optimiser_steps: list[int]) -> Refusal:
    """(subject, labels, settings) → the two lines of the refusal; nothing was trained, at most the probe was shown."""

    def refused(model=None, labels=None, **settings):
        task = cell(model or linear_subject(), labels=labels)
        with pytest.raises(SetupError) as problem:
            trained(task, **settings)
        assert not optimiser_steps
        assert task.model.passes.total <= PROBE
        return str(problem.value)

    return refused


# ---- classes -------------------------------------------------------------------------------------------------------


def test_more_conditioned_classes_than_the_subject_has(refusal: Refusal):
    assert refusal(num_classes=11) == "11 conditioned classes, the subject has 10\n  condition on fewer"


def test_fewer_classes_without_a_map(refusal: Refusal):
    assert refusal(num_classes=3).startswith("3 conditioned classes of the subject's 10\n  class_map")


def test_with_a_map_distributions_are_padded_and_labels_are_the_subjects(monkeypatch: pytest.MonkeyPatch):
    targets, watch, kl_term = [], Watch(), losses.kl_term
    monkeypatch.setattr(losses, "kl_term", lambda wanted, *rest: targets.append(wanted) or kl_term(wanted, *rest))
    task = cell(linear_subject(), labels=[7, 2, 5])
    made = trained(task, watch.additions(), num_classes=3, class_map=[7, 2, 5], steps=1, dropout="none")
    (target,), (labels,), (features,) = targets, watch.labels, watch.features
    others = [label for label in range(10) if label not in (7, 2, 5)]
    assert target.shape == (20, 10) and not target[:, others].any()
    torch.testing.assert_close(target.sum(1), torch.ones(20))
    assert torch.equal(target.argmax(1), labels) and set(labels.tolist()) == {7, 2, 5}
    head = task.model.network[1]
    expected = F.cross_entropy(features @ head.weight.T, labels)
    assert made.history["cross_entropy"] == [pytest.approx(expected.item(), rel=1e-5)]
    wanted = made.wanted(task, task.labels)
    assert torch.equal(wanted.argmax(1), task.labels) and not wanted[:, others].any()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([1, 4, 1], "class_map names class 1 twice"),
        ([1, -2, 3], "class_map[1] is -2\n  the subject has classes 0 to 9"),
        ([1, 2, 10], "class_map[2] is 10\n  the subject has classes 0 to 9"),
        ([1, 2], "class_map names 2 classes, 3 are conditioned"),
    ],
)
def test_a_map_with_repeats_negatives_or_classes_that_are_not_there(refusal: Refusal, entries, said):
    assert said in refusal(num_classes=3, class_map=entries)


def test_a_label_that_is_not_conditioned(refusal: Refusal):
    assert refusal(num_classes=2, class_map=[1, 4], labels=[4, 3]).startswith("class 3 is asked for")


def test_fewer_than_two_classes(refusal: Refusal):
    for message in (refusal(num_classes=1, class_map=[3]), refusal(linear_subject(classes=1))):
        assert message == "1 conditioned classes\n  soft vectors and pairs need at least 2"


# ---- the subject's answers -----------------------------------------------------------------------------------------


def answering(after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), linear_map(64, 10), after)


class FirstNine(nn.Module):
    def forward(self, logits):
        return logits[:, :9]


class Spoilt(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, logits):
        return torch.where(torch.arange(10) == 4, self.value, logits)


@pytest.mark.parametrize(("after", "found"), [(nn.Unflatten(1, (10, 1)), "(8, 10, 1)"), (FirstNine(), "(8, 9)")])
def test_answers_of_another_shape(refusal: Refusal, after, found):
    assert refusal(wrapped(answering(after))) == f"tiny answers {found} to 8 images\n  expected (B, 10)"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_not_finite(refusal: Refusal, value):
    assert refusal(wrapped(answering(Spoilt(value)))).startswith(
        "tiny answers a probe with numbers that are not finite"
    )


def test_probabilities_instead_of_logits(refusal: Refusal):
    message = refusal(wrapped(answering(nn.Softmax(1))))
    assert message == 'tiny seems to return probabilities: rows sum to 1\n  give logits, or set outputs="probs"'


def test_probabilities_that_are_announced_are_taken_with_a_floor_under_the_logarithm():
    """A subject that is sure of another class: log 0 would end the training, log 1e-12 costs 27.6."""
    network = answering(nn.Softmax(1))
    with torch.no_grad():
        network[1].bias[0] = 1e4
    made = trained(cell(wrapped(network)), outputs="probs", steps=2, condition="one_hot", num_classes=10, balanced=True)
    assert made.history["cross_entropy"] == [pytest.approx(0.9 * 27.631, abs=0.01)] * 2


def test_logits_that_are_announced_as_probabilities(refusal: Refusal):
    assert refusal(outputs="probs").startswith('tiny does not return probabilities, as outputs="probs" says')


def test_a_subject_for_images_of_another_shape(refusal: Refusal):
    other = wrapped(nn.Sequential(nn.Flatten(), linear_map(49, 10)), shape=SHAPE)  # made for 7 × 7
    message = refusal(other)
    assert message.startswith("tiny cannot take images of (1, 8, 8): ") and "(8x64 and 49x10)" in message


def test_a_last_stage_that_makes_images_of_another_shape(optimiser_steps: list[int]):
    additions = Additions(picture=lambda images, latents: images[:, :, 1:])
    with pytest.raises(ShapeError, match=r"tiny takes \(B, 1, 8, 8\), got \(20, 1, 7, 8\)"):
        trained(cell(linear_subject()), additions)
    assert not optimiser_steps


# ---- settings ------------------------------------------------------------------------------------------------------


def test_a_square_matrix_that_does_not_fit_the_picture(refusal: Refusal):
    message = refusal(matrix="square")
    assert message == (
        "a hot matrix of 10x10 does not fit a picture of 8 pixels\n  matrix=cross has 4x4 for 10 classes"
    )


def test_a_batch_without_a_pair(refusal: Refusal):
    assert refusal(batch_size=1) == "batch_size is 1\n  pairs need at least 2 images"


def test_a_batch_with_few_pairs_is_warned_of():
    with pytest.warns(UserWarning, match="batches of 19 images: two of each of 10 classes are 20"):
        trained(cell(linear_subject()), batch_size=19, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(cell(linear_subject()), batch_size=20, steps=1)


@pytest.mark.filterwarnings("ignore:batches of 3 images")
def test_steps_without_a_same_class_pair_have_a_term_of_0_and_are_counted():
    watch = Watch()
    made = trained(cell(linear_subject()), watch.additions(), batch_size=3, steps=20, pairs="same_class")
    alone = [len(set(labels.tolist())) == 3 for labels in watch.labels]
    assert 0 < sum(alone) < 20
    assert made.counts["steps_without_a_pair"] == sum(alone)
    assert [value == 0 for value in made.history["cosine"]] == alone


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_0(refusal: Refusal, value):
    assert refusal(temperature=value) == f"temperature is {value}\n  it has to be above 0 and finite"


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_a_dropout_outside_0_to_1(refusal: Refusal, value):
    assert refusal(dropout_rate=value) == f"dropout_rate is {value}\n  it has to be in [0, 1)"


def test_a_dropout_rate_for_no_stage(refusal: Refusal):
    assert refusal(dropout_rate=0.3, dropout="none").startswith("dropout_rate is 0.3 and dropout none")


WEIGHTS = ["kl", "cross_entropy", "cosine", "orthogonality", "perturbed_kl", "perturbed_cross_entropy"]
WEIGHTS += ["smoothness", "gradient_norm", "lookalike"]


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_a_weight_that_is_negative_or_not_finite(refusal: Refusal, weight, value):
    assert refusal(**{weight: value}) == f"{weight} is {value}\n  weights are finite and not negative"


def test_weights_that_are_all_0(refusal: Refusal):
    assert refusal(**dict.fromkeys(WEIGHTS, 0.0)).startswith("all weights are 0\n  some of kl, cross_entropy, cosine")


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("condition", "embedding", "one of label, soft, one_hot, none"),
        ("matrix", "round", "one of none, auto, square, cross"),
        ("body", "dense", "one of transposed, resize"),
        ("dropout", "huge", "one of none, light, heavy"),
        ("pairs", "some", "one of all, same_class"),
        ("outputs", "scores", "one of logits, probs"),
        ("schedule", "linear", "one of constant, cosine"),
        ("latent", 0, "at least 1"),
        ("width", 0, "at least 1"),
        ("steps", -1, "at least 0"),
        ("step_size", 0.0, "above 0"),
        ("first_moment", 1.0, "in [0, 1)"),
    ],
)
def test_any_other_setting_out_of_its_range(refusal: Refusal, name, value, limit):
    first, second = refusal(**{name: value}).split("\n")
    assert first == f"{name} is {value!r}" and limit in second


def test_a_generator_that_is_told_nothing(refusal: Refusal):
    assert refusal(condition="none", matrix="none").startswith("condition and matrix are both none")


def test_settings_are_refused_before_a_run_already(optimiser_steps: list[int]):
    task = cell(linear_subject())
    with pytest.raises(SetupError, match="temperature is 0"):
        Recipe(temperature=0).check(task.model)
    assert task.model.passes.total == 0


# ---- features ------------------------------------------------------------------------------------------------------


def dead_subject(alive: int):
    """Five features behind a ReLU, all 0 but for the first ``alive`` ones, which are 1."""
    first = nn.Linear(64, 5)
    with torch.no_grad():
        first.weight.zero_()
        first.bias.copy_((torch.arange(5) < alive).float() * 2 - 1)
    return wrapped(nn.Sequential(nn.Flatten(), first, nn.ReLU(), linear_map(5, 10)))


def test_feature_rows_without_length_are_guarded_counted_and_warned_of():
    with pytest.warns(UserWarning, match="dead features: 60 of 60 rows of tap penultimate have no length"):
        made = trained(cell(dead_subject(alive=0)), steps=3)
    assert made.counts["dead_features"] == 60
    assert made.history["cosine"] == [0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trained(cell(dead_subject(alive=1)), steps=3).counts["dead_features"] == 0


def test_a_tap_that_is_not_there(refusal: Refusal):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), linear_map(5, 10))
    message = refusal(wrapped(network, taps={"hidden": "1"}), tap="hiden")
    assert message == "tiny has no tap 'hiden'\n  it has: hidden, penultimate"


class Pair(nn.Module):
    def forward(self, images):
        return images, images


class FirstOfTwo(nn.Module):
    def forward(self, pair):
        return pair[0].flatten(1)


def test_a_tap_that_is_no_tensor(refusal: Refusal):
    network = nn.Sequential(Pair(), FirstOfTwo(), linear_map(64, 10))
    message = refusal(wrapped(network, taps={"twice": "0"}), tap="twice")
    assert message == "tiny: tap 'twice' gives a tuple, not a tensor\n  it has: twice, penultimate"


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_a_tie_at_the_argmax_goes_to_the_lowest_class():
    assert first_argmax(torch.tensor([[0.1, 0.4, 0.4, 0.1]])).tolist() == [1]


def test_a_loss_that_is_not_finite_ends_the_training_and_names_its_step():
    """The generator is given up. What stays is the error: the first step whose loss was lost, and all its terms.

    The harness makes it the status ``diverged``, without any reading: ``tests/execute/test_report.py``.
    """
    watch = Watch()
    with pytest.raises(
        Diverged, match="the loss nan at step 2: kl nan, cross_entropy nan, cosine nan, orthogonality nan"
    ):
        trained(cell(linear_subject(), budget=200), watch.additions(), step_size=1e36, steps=60)
    assert len(watch.labels) == 50, "it looks every 50 steps: each look waits for the device"


# A target below its accuracy gate is refused unless forced, and forced rows are marked:
# ``tests/execute/test_report.py`` and, for the boards, ``tests/right/test_boards.py``,
# ``test_the_sidecar_counts_comparisons_and_names_overridden_gates``.
#
# A metric without a value is a reason, never 0: ``tests/metrics/test_laws.py``,
# ``test_an_undefined_number_is_a_reason_never_nan``.


def test_a_garbage_class_counts_as_a_class_and_can_be_left_out():
    """The subject's last of eleven outputs. That it stays out of realism is a suite's business: its ``targets``."""
    subject = linear_subject(classes=11)
    everything = trained(cell(subject, budget=60), steps=1, batch_size=22)
    assert everything.generator.classes == 11
    task = cell(subject, labels=list(range(10)))
    without = trained(task, steps=1, num_classes=10, class_map=list(range(10)))
    assert without.generator.classes == 10
    assert not without.wanted(task, task.labels)[:, 10].any()
