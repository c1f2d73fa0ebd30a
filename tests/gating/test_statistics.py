"""Numbers of paths against plain loops, closed forms and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score, log_loss

from bench.contract import SetupError, ShapeError
from bench.gating import ControllingModule, FixedGate, SalienceGate
from bench.gating import statistics as say


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(images, rates, seed=0):
    """(N, C) bool, filter c on with probability ``rates[c]``."""
    return torch.rand(images, len(rates), generator=generator(seed)) < torch.tensor(rates)


BITS = planted(40, [0.0, 0.1, 0.5, 0.7, 1.0, 0.4, 0.3], 1)
LABELS = torch.randint(4, (40,), generator=generator(2))


def rates_of(bits):
    return [sum(int(row[c]) for row in bits) / len(bits) for c in range(bits.shape[1])]


def entropy(rate):
    return 0.0 if rate in (0, 1) else -(rate * math.log2(rate) + (1 - rate) * math.log2(1 - rate))


# ---- how gates behave ----------------------------------------------------------------------------------------------


def test_spread_of_planted_bits_is_the_sum_of_2p_times_1_minus_p():
    assert say.spread(BITS) == pytest.approx(sum(2 * p * (1 - p) for p in rates_of(BITS)), rel=1e-12)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_spread_has_its_closed_form_for_any_bits(rows):
    bits = torch.tensor(rows)
    assert say.spread(bits) == pytest.approx(sum(2 * p * (1 - p) for p in rates_of(bits)), abs=1e-12)


def test_shares_count_gates_beyond_one_percent_of_either_end():
    bits = torch.zeros(200, 4, dtype=torch.bool)
    bits[:, 0] = True
    bits[:1, 1] = True  # 0.5 %: as good as off
    bits[:2, 2] = True  # 1 % exactly: dynamic
    bits[1:, 3] = True  # 99.5 %: as good as on
    assert say.gate_shares(bits) == say.Shares(always_on=0.5, always_off=0.25, dynamic=0.25)


def test_gate_entropy_is_the_mean_binary_entropy():
    assert say.gate_entropy(BITS) == pytest.approx(sum(map(entropy, rates_of(BITS))) / 7, rel=1e-12)


def test_within_class_entropy_weighs_classes_by_their_images():
    total = 0.0
    for label in range(4):
        own = BITS[label == LABELS]
        total += len(own) * sum(map(entropy, rates_of(own))) / 7
    assert say.within_class_entropy(BITS, LABELS) == pytest.approx(total / 40, rel=1e-12)


def test_bits_that_only_name_the_class_have_no_entropy_within_it():
    assert say.within_class_entropy(torch.eye(4, dtype=torch.bool)[LABELS], LABELS) == 0.0


def test_hamming_is_the_mean_over_pairs():
    found = {True: [], False: []}
    for i, j in itertools.combinations(range(40), 2):
        found[bool(LABELS[i] == LABELS[j])].append(sum(bool(a != b) for a, b in zip(BITS[i], BITS[j], strict=True)) / 7)
    within, between = say.hamming(BITS, LABELS)
    assert within == pytest.approx(np.mean(found[True]), rel=1e-12)
    assert between == pytest.approx(np.mean(found[False]), rel=1e-12)


def test_without_a_pair_there_is_no_hamming_distance():
    within, between = say.hamming(BITS[:3], torch.tensor([0, 1, 2]))
    assert math.isnan(within) and not math.isnan(between)
    within, between = say.hamming(BITS[:3], torch.zeros(3, dtype=torch.int64))
    assert not math.isnan(within) and math.isnan(between)


def test_unique_share_counts_unlike_rows():
    bits = torch.tensor([[1, 0], [1, 0], [0, 0], [1, 1]]).bool()
    assert say.unique_share(bits) == 0.75


def test_score_sizes_are_those_of_numpy():
    scores = 4 * torch.randn(50, 6, generator=generator(3))
    sizes = np.abs(scores.double().numpy()).ravel()
    found = say.score_sizes(scores)
    assert found.mean_size == pytest.approx(sizes.mean(), rel=1e-12)
    assert found.percentile_95 == pytest.approx(np.percentile(sizes, 95), rel=1e-12)
    assert found.frozen == (sizes > 5).mean()


@pytest.mark.parametrize(
    ("rates", "score", "expected"),
    [
        ([1.0] * 20, 1.0, ["nothing is decoupled"]),
        ([0.5] * 9 + [1.0] * 11, 1.0, ["ordinary pruning"]),
        ([0.0] * 20, 1.0, ["nothing is decoupled", "almost switched off"]),
        ([0.5] * 20, 6.0, ["no longer learn"]),
        ([0.5] * 20, 1.0, []),
    ],
)
def test_collapse_is_said_in_words(rates, score, expected):
    found = say.complaints("layer3", planted(300, rates), torch.full((300, 20), score), ControllingModule(4, 20))
    assert len(found) == len(expected)
    assert all(line.startswith("layer3: ") and words in line for line, words in zip(found, expected, strict=True))


@pytest.mark.parametrize("gate", [FixedGate(torch.ones(20)), SalienceGate(4, 20, keep=0.5)], ids=["mask", "salience"])
def test_large_scores_stop_only_gates_whose_bits_are_learned(gate):
    assert say.complaints("layer3", planted(300, [0.5] * 20), torch.full((300, 20), 6.0), gate) == []


def test_of_a_static_mask_a_layer_says_only_that_it_is_almost_off():
    on, off = torch.ones(9, 20).bool(), torch.zeros(9, 20).bool()
    assert say.complaints("layer3", on, torch.ones(9, 20), FixedGate(on[0])) == []
    (line,) = say.complaints("layer3", off, -torch.ones(9, 20), FixedGate(off[0]))
    assert "almost switched off" in line


def test_static_masks_are_counted_in_one_sentence():
    mask, module = FixedGate(torch.ones(20)), ControllingModule(4, 20)
    (line,) = say.static_masks([mask, module, mask])
    assert line.startswith("2 of 3 gated layers have a static mask: the same filters for all images")
    assert say.static_masks([module]) == []


@pytest.mark.parametrize(
    "bits", [torch.zeros(3, 4), torch.zeros(3, 4, 1, dtype=torch.bool)], ids=["not bool", "three axes"]
)
def test_what_are_no_bits_is_refused(bits):
    with pytest.raises(ShapeError, match=r"bits should be \(N, C\) bool"):
        say.spread(bits)


def test_paths_and_labels_of_different_length_are_refused():
    with pytest.raises(ShapeError, match="40 paths need as many labels"):
        say.hamming(BITS, LABELS[:5])


# ---- paths of classes ----------------------------------------------------------------------------------------------


def test_frequencies_are_means_over_the_images_that_count():
    counted = torch.rand(40, generator=generator(4)) < 0.7
    found = say.class_frequencies(BITS, LABELS, 5, counted)
    for label in range(4):
        own = BITS[(label == LABELS) & counted]
        assert found.values[label].tolist() == pytest.approx(rates_of(own)) and found.counts[label] == len(own)


def test_a_class_without_an_image_keeps_its_row():
    found = say.class_frequencies(BITS, LABELS, 5)
    assert found.counts[4] == 0 and found.values[4].isnan().all()
    assert not found.values[:4].isnan().any()
    for table in (say.similarity(found), say.jaccard(found)):
        assert table[4].isnan().all() and table[:, 4].isnan().all()
    assert not say.filter_selectivity(found).isnan().any()


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_of_no_class_is_refused(label):
    labels = LABELS.clone()
    labels[3] = label
    with pytest.raises(SetupError, match="labels should lie in 0 … 3"):
        say.class_frequencies(BITS, labels, 4)


def test_selectivity_of_a_filter_of_one_class_alone():
    bits = torch.zeros(40, 2, dtype=torch.bool)
    bits[:, 0] = LABELS == 2
    bits[:, 1] = True
    assert say.filter_selectivity(say.class_frequencies(bits, LABELS, 4)).tolist() == [0.75, 0.0]


def test_similarity_is_the_centred_cosine():
    found = say.class_frequencies(BITS, LABELS, 4)
    rows = found.values.numpy() - found.values.numpy().mean(0)
    for c, d in itertools.product(range(4), repeat=2):
        cosine = rows[c] @ rows[d] / np.linalg.norm(rows[c]) / np.linalg.norm(rows[d])
        assert say.similarity(found)[c, d].item() == pytest.approx(cosine, abs=1e-12)


def test_always_on_gates_do_not_make_classes_alike():
    bits = torch.cat([torch.eye(4, dtype=torch.bool)[LABELS], torch.ones(40, 50, dtype=torch.bool)], 1)
    found = say.similarity(say.class_frequencies(bits, LABELS, 4))
    assert found[0, 1].item() == pytest.approx(-1 / 3, abs=1e-12)  # corners of a regular simplex


def test_classes_on_one_path_have_no_direction():
    bits = torch.ones(40, 5, dtype=torch.bool)
    assert say.similarity(say.class_frequencies(bits, LABELS, 4)).isnan().all()


def test_jaccard_is_that_of_scikit_learn():
    found = say.class_frequencies(BITS, LABELS, 4)
    paths = (found.values > 0.5).numpy()
    for c, d in itertools.product(range(4), repeat=2):
        assert say.jaccard(found)[c, d].item() == pytest.approx(jaccard_score(paths[c], paths[d]), abs=1e-12)


def test_jaccard_of_two_empty_paths_is_no_number():
    bits = torch.zeros(4, 3, dtype=torch.bool)
    bits[3] = True
    found = say.jaccard(say.class_frequencies(bits, torch.tensor([0, 0, 1, 2]), 3))
    assert found[0, 1].isnan() and found[0, 0].isnan() and found[0, 2] == 0 and found[2, 2] == 1


def test_group_contrast_is_a_difference_of_means():
    table = torch.rand(4, 4, generator=generator(5), dtype=torch.float64)
    within = (table[0, 1] + table[2, 3]) / 2
    between = (table[0, 2] + table[0, 3] + table[1, 2] + table[1, 3]) / 4
    assert say.group_contrast(table, ["a", "a", "b", "b"]) == pytest.approx((within - between).item(), rel=1e-12)
    assert math.isnan(say.group_contrast(table, ["a", "a", "a", "a"]))


def test_confusion_is_symmetric_and_the_mean_of_both_ways():
    labels, predictions = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 1])
    found = say.confusion(labels, predictions, 3)
    assert found[0, 1] == found[1, 0] == (1 / 4 + 1 / 2) / 2
    assert found[2].isnan().all() and found[:, 2].isnan().all()


def test_rank_agreement_sees_order_alone_and_skips_what_is_missing():
    first = torch.rand(6, 6, generator=generator(6), dtype=torch.float64)
    assert say.rank_agreement(first, first.exp()) == pytest.approx(1.0)
    assert say.rank_agreement(first, -first) == pytest.approx(-1.0)
    missing = first.clone()
    missing[:, 3] = missing[3] = math.nan
    assert say.rank_agreement(missing, first**3) == pytest.approx(1.0)
    assert math.isnan(say.rank_agreement(first, torch.ones(6, 6)))
    assert math.isnan(say.rank_agreement(first[:2, :2], first[:2, :2]))


def test_shuffling_keeps_on_rates_and_loses_the_class():
    labels = torch.arange(4000) % 4
    bits = torch.eye(4, dtype=torch.bool)[labels]
    mixed = say.shuffled(bits, generator(7))
    assert torch.equal(mixed.sum(0), bits.sum(0)) and not torch.equal(mixed, bits)
    assert say.filter_selectivity(say.class_frequencies(mixed, labels, 4)).max() < 0.1


# ---- what can be read from paths -----------------------------------------------------------------------------------


def noisy_class_bits(images, classes=4, flips=0.0, seed=0):
    labels = torch.arange(images) % classes
    bits = torch.eye(classes, dtype=torch.bool)[labels]
    return bits ^ (torch.rand(bits.shape, generator=generator(seed)) < flips), labels


def test_bits_that_name_the_class_carry_almost_all_of_it():
    known, unseen = noisy_class_bits(2000), noisy_class_bits(400)
    assert 1.8 < say.information(*known, *unseen, 4) <= 2.0


def test_bits_of_chance_carry_nothing():
    known, unseen = (planted(n, [0.5] * 8, n) for n in (2000, 400))
    assert say.information(known, torch.arange(2000) % 4, unseen, torch.arange(400) % 4, 4) < 0.02


def test_information_is_log2_k_less_the_cross_entropy_of_a_probe():
    known, unseen = noisy_class_bits(600, flips=0.2), noisy_class_bits(300, flips=0.2, seed=1)
    probe = LogisticRegression(C=say.PROBE, max_iter=1000).fit(*(one.numpy() for one in known))
    loss = log_loss(unseen[1].numpy(), probe.predict_proba(unseen[0].numpy())) / math.log(2)
    assert say.information(*known, *unseen, 4) == pytest.approx(2 - loss, abs=1e-3)


def test_information_is_read_on_unseen_paths_and_never_negative():
    bits, labels = planted(60, [0.5] * 200), torch.randint(4, (60,), generator=generator(8))
    assert say.information(bits, labels, bits, labels, 4) > 0.5  # learned by heart
    assert say.information(bits, labels, planted(60, [0.5] * 200, 9), labels, 4) < 0.3
    wrong = (torch.eye(4, dtype=torch.bool)[labels], labels)
    assert say.information(*wrong, wrong[0], (labels + 1) % 4, 4) == 0.0


def test_one_class_teaches_a_probe_nothing():
    assert math.isnan(say.information(BITS, torch.zeros(40, dtype=torch.int64), BITS, LABELS, 4))


def test_clusters_of_planted_classes_are_found_and_chance_is_zero():
    bits, labels = noisy_class_bits(400)
    assert say.cluster_agreement(bits, labels, 4) == pytest.approx(1.0)
    assert abs(say.cluster_agreement(planted(400, [0.5] * 8), labels, 4)) < 0.05


def test_fewer_unlike_paths_than_clusters_are_no_fault():
    assert say.cluster_agreement(torch.ones(40, 3, dtype=torch.bool), LABELS, 4) == 0.0
