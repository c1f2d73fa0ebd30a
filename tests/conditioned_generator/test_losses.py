"""Every loss term against plain loops or closed forms, and what the diversity terms can and cannot see."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bench.conditioned_generator import losses


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_distributions(count, classes, seed=0):
    return (2 * normals(count, classes, seed=seed)).softmax(1)


# ---- label terms ---------------------------------------------------------------------------------------------------


def test_kl_and_cross_entropy_agree_with_scipy():
    wanted, logits, labels = some_distributions(6, 5), 3 * normals(6, 5, seed=1), torch.tensor([0, 4, 2, 2, 1, 3])
    log_probs = losses.log_probabilities(logits)
    expected = log_softmax(logits.double().numpy(), axis=1)
    divergence = rel_entr(wanted.double().numpy(), np.exp(expected)).sum(1).mean()
    assert losses.kl_term(wanted, log_probs).item() == pytest.approx(divergence, rel=1e-5)
    entropy = -np.mean([expected[row, label] for row, label in enumerate(labels.tolist())])
    assert losses.cross_entropy_term(log_probs, labels).item() == pytest.approx(entropy, rel=1e-5)


def test_kl_is_0_where_the_subject_answers_what_was_asked_for():
    wanted = some_distributions(50, 10)
    assert losses.kl_term(wanted, losses.log_probabilities(wanted.log())).item() == pytest.approx(0, abs=1e-6)


def test_kl_to_a_one_hot_vector_is_the_cross_entropy():
    labels = torch.arange(10)
    log_probs = losses.log_probabilities(4 * normals(10, 10))
    divergence = losses.kl_term(F.one_hot(labels, 10).float(), log_probs)
    assert divergence.item() == pytest.approx(losses.cross_entropy_term(log_probs, labels).item(), abs=1e-6)


@pytest.mark.parametrize(("kl", "cross_entropy"), [(1.0, 1.0), (1.0, 3.0)])
def test_free_logits_end_at_the_mixture_of_the_vector_and_the_label(kl, cross_entropy):
    """Q* = (α P + β e_y) / (α + β): at α = β a generator whose mean confidence is 0.66 has converged, not failed."""
    wanted = normals(400, 10).double().softmax(1)
    labels = wanted.argmax(1)
    logits = torch.zeros(400, 10, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        log_probs = losses.log_probabilities(logits)
        total = kl * losses.kl_term(wanted, log_probs) + cross_entropy * losses.cross_entropy_term(log_probs, labels)
        total.backward()
        return total

    optimiser.step(loss)
    reached = logits.detach().softmax(1)
    mixture = (kl * wanted + cross_entropy * F.one_hot(labels, 10)) / (kl + cross_entropy)
    assert (reached - mixture).abs().max() < 1e-3
    first, second = reached.topk(2, 1).values.unbind(1)
    assert (first - second).min() >= cross_entropy / (kl + cross_entropy) - 1e-3
    if kl == cross_entropy:
        assert first.mean().item() == pytest.approx(0.66, abs=0.01)


def test_softmax_is_taken_once():
    """Perfect one-hot logits cost nothing. Taken twice, with 10 classes, no answer can cost less than 1.461."""
    labels = torch.arange(10)
    wanted = F.one_hot(labels, 10).float()
    assert losses.kl_term(wanted, losses.log_probabilities(30 * wanted)) < 1e-4
    twice = losses.kl_term(wanted, losses.log_probabilities((30 * wanted).softmax(1)))
    assert twice.item() == pytest.approx(math.log(math.e + 9) - 1, abs=1e-5)
    assert twice.item() == pytest.approx(1.461, abs=1e-3)


def test_probabilities_are_taken_as_they_are_down_to_1e_12():
    answers = torch.tensor([[0.25, 0.75, 0.0]])
    expected = [math.log(0.25), math.log(0.75), math.log(1e-12)]
    assert losses.log_probabilities(answers, "probs")[0].tolist() == pytest.approx(expected, rel=1e-6)


# ---- cosine --------------------------------------------------------------------------------------------------------


def cosine_by_loops(features, labels, pairs, centre, absolute):
    rows = features.double().numpy()
    if centre:
        rows = rows - rows.mean(0)
    found = []
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if i != j and (pairs == "all" or labels[i] == labels[j]):
                cosine = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
                found.append(abs(cosine) if absolute else cosine)
    return sum(found) / len(found) if found else 0.0


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("pairs", ["all", "same_class"])
@pytest.mark.parametrize("labels", [[5, 0, 5, 2, 0, 5, 900], [0, 1, 2, 3, 4, 5, 6]])
def test_the_cosine_term_is_the_mean_over_pairs(labels, pairs, centre, absolute):
    features = normals(7, 4) + 0.5
    term = losses.cosine_term(features, labels=torch.tensor(labels), pairs=pairs, centre=centre, absolute=absolute)
    assert term.item() == pytest.approx(cosine_by_loops(features, labels, pairs, centre, absolute), abs=1e-6)


def test_cosine_of_equal_opposite_and_orthogonal_rows():
    assert losses.cosine_term(torch.ones(5, 3)).item() == pytest.approx(1, abs=1e-6)
    assert losses.cosine_term(torch.tensor([[2.0, 1.0], [-4.0, -2.0]])).item() == pytest.approx(-1, abs=1e-6)
    assert losses.cosine_term(torch.eye(4)).item() == pytest.approx(0, abs=1e-6)


# ---- orthogonality -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("count", "width"), [(4, 9), (9, 4)])
def test_the_orthogonality_term_is_the_gram_matrixs_departure_from_the_identity(count, width, normalise):
    features = 3 * normals(count, width)
    rows = features.double().numpy()
    if normalise:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    squares = [(rows[i] @ rows[j] - (i == j)) ** 2 for i in range(count) for j in range(count)]
    term = losses.orthogonality_term(features, normalise=normalise)
    assert term.item() == pytest.approx(sum(squares) / count**2, rel=1e-5)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_orthogonality_of_orthonormal_and_of_equal_rows(count):
    assert losses.orthogonality_term(torch.eye(count, 64)).item() == pytest.approx(0, abs=1e-6)
    assert losses.orthogonality_term(torch.ones(count, 64)).item() == pytest.approx(1 - 1 / count, abs=1e-6)


def test_the_orthogonality_term_never_falls_below_the_welch_bound_and_a_tight_frame_reaches_it():
    width = 6
    for count in (7, 12, 60):
        bound = 1 / width - 1 / count
        assert losses.orthogonality_term(normals(count, width)).item() >= bound
    twice = torch.eye(width).repeat(2, 1)
    assert losses.orthogonality_term(twice).item() == pytest.approx(1 / width - 1 / (2 * width), abs=1e-6)


def test_rows_as_they_are_leave_the_labels_no_share_of_the_gradient():
    """Squared norms of thousands: with raw rows orthogonality is all there is; unit rows leave room for the rest."""
    features = (30 * normals(64, 32)).relu().requires_grad_()
    logits = features @ (normals(32, 10, seed=1) / 30)
    label_term = losses.cross_entropy_term(losses.log_probabilities(logits), torch.arange(64) % 10)

    def slope(term):
        return torch.autograd.grad(term, features, retain_graph=True)[0].norm().item()

    raw, unit = (slope(losses.orthogonality_term(features, normalise=on)) for on in (False, True))
    assert raw / (raw + slope(label_term)) > 0.999
    assert unit / (unit + slope(label_term)) < 0.5


# ---- table 4.5 -----------------------------------------------------------------------------------------------------

CLASSES, COUNT = 10, 1000
LABELS = torch.arange(COUNT) % CLASSES
SIMPLEX = torch.eye(CLASSES) - 1 / CLASSES  # ten rows at equal angles, their sum is 0
SITUATIONS = {  # what a generator makes: (features, L_cos, L_ortho, same-class cosine)
    "one image a class, classes like a simplex": (SIMPLEX[LABELS], -0.001, 0.110, 1.0),
    "one image a class, classes orthogonal": (torch.eye(CLASSES)[LABELS], 0.099, 0.099, 1.0),
    "all images equal": (torch.ones(COUNT, 5), 1.0, 0.999, 1.0),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_the_terms_say_of_a_collapsed_generator(situation):
    features, cosine, orthogonality, same_class = SITUATIONS[situation]
    assert round(losses.cosine_term(features).item(), 3) == cosine
    assert round(losses.orthogonality_term(features).item(), 3) == orthogonality
    within = losses.cosine_term(features, labels=LABELS, pairs="same_class")
    assert within.item() == pytest.approx(same_class, abs=1e-5)


def test_what_the_terms_say_of_random_features():
    features = normals(COUNT, 128)
    assert losses.cosine_term(features).item() == pytest.approx(0, abs=0.002)
    assert round(losses.orthogonality_term(features).item(), 3) == 0.008
    assert losses.cosine_term(features, labels=LABELS, pairs="same_class").item() == pytest.approx(0, abs=0.005)


def test_the_cosine_of_all_pairs_is_least_for_one_image_a_class():
    """The published term cannot see that collapse: no features of any generator come below −1 / (B − 1)."""
    term = losses.cosine_term(SIMPLEX[LABELS])
    assert term.item() == pytest.approx(-1 / (COUNT - 1), abs=1e-6)
    assert losses.cosine_term(normals(COUNT, 128)) > term


# ---- rows without length -----------------------------------------------------------------------------------------


def test_rows_without_length_stay_0_and_are_counted():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1e-9]], requires_grad=True)
    unit = losses.unit_rows(features)
    assert unit[0].tolist() == [0, 0] and unit[1].tolist() == pytest.approx([0.6, 0.8])
    assert losses.dead_rows(features).item() == 2
    (slope,) = torch.autograd.grad(losses.cosine_term(features) + losses.orthogonality_term(features), features)
    assert slope.isfinite().all()


# ---- memory --------------------------------------------------------------------------------------------------------

LINEAR = {
    "all pairs": lambda features, labels: losses.cosine_term(features),
    "same class": lambda features, labels: losses.cosine_term(features, labels=labels, pairs="same_class"),
    "centred": lambda features, labels: losses.cosine_term(features, centre=True),
    "orthogonality": lambda features, labels: losses.orthogonality_term(features),
    "raw": lambda features, labels: losses.orthogonality_term(features, normalise=False),
    "lookalikes": losses.lookalike_term,
}


class LargestTensor(TorchDispatchMode):
    """Remembers how many bytes the largest tensor has that any operation made, backward passes included."""

    bytes_ = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        made = [part for part in (out if isinstance(out, tuple | list) else [out]) if isinstance(part, torch.Tensor)]
        self.bytes_ = max([self.bytes_, *(part.untyped_storage().nbytes() for part in made)])
        return out


@pytest.mark.parametrize("term", LINEAR)
@pytest.mark.parametrize(("count", "width"), [(600, 20), (20, 600)])
def test_no_term_makes_anything_larger_than_its_features(term, count, width):
    features, labels = normals(count, width).requires_grad_(), torch.arange(count) % 10
    with LargestTensor() as largest:
        torch.autograd.grad(LINEAR[term](features, labels), features)
    assert largest.bytes_ == 4 * count * width


# ---- the terms of follow-ups ---------------------------------------------------------------------------------------


def lookalike_by_loops(images, labels):
    squares = [
        ((images[i] - images[j]) ** 2).sum()
        for i in range(len(images))
        for j in range(len(images))
        if labels[i] != labels[j]
    ]
    return torch.stack(squares).mean()


def test_the_lookalike_term_is_the_mean_squared_distance_of_different_classes():
    images = normals(7, 2, 3, 3).double().requires_grad_()
    labels = torch.tensor([1, 0, 1, 5, 0, 9, 1])
    term, expected = losses.lookalike_term(images, labels), lookalike_by_loops(images, labels)
    assert term.item() == pytest.approx(expected.item(), rel=1e-10)
    slopes = [torch.autograd.grad(part, images)[0] for part in (term, expected)]
    torch.testing.assert_close(*slopes)


def test_images_of_one_class_have_no_lookalikes():
    assert losses.lookalike_term(torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64)).item() == 0


def test_the_gradient_norm_of_a_linear_network_is_that_of_its_errors_times_its_inputs():
    """∂CE/∂W = (1/B) Σ (q_b − e_b) x_bᵀ and ∂CE/∂bias = (1/B) Σ (q_b − e_b), by hand."""
    network = nn.Linear(5, 3).double()
    with torch.no_grad():
        network.weight.copy_(normals(3, 5))
        network.bias.copy_(normals(3, seed=1))
    inputs, labels = normals(4, 5, seed=2).double().requires_grad_(), torch.tensor([0, 2, 1, 2])

    def norm(points):
        loss = losses.cross_entropy_term(losses.log_probabilities(network(points)), labels)
        return losses.gradient_norm_term(loss, network.parameters())

    errors = network(inputs).detach().softmax(1).numpy() - np.eye(3)[labels]
    slopes = [errors.T @ inputs.detach().numpy() / 4, errors.mean(0)]
    expected = math.sqrt(sum((slope**2).sum() for slope in slopes))
    assert norm(inputs).item() == pytest.approx(expected, rel=1e-10)
    assert torch.autograd.gradcheck(norm, (inputs,)), "a generator can learn to make it small"
