import math

import pytest
import torch

from bench.contract import ShapeError, Undefined
from metrics.class_subspace_share import class_subspace_share

RIGHT = torch.tensor([[1.0, 0.0, 0.0]])  # the subject gives the original class 0, its label
GREY = torch.full((1, 1, 2, 2), 0.5)


def share(change, rows, *, target=1, clean_logits=RIGHT):
    return class_subspace_share(
        generated=GREY + torch.tensor(change).view(1, 1, 2, 2),
        real=GREY,
        clean_logits=clean_logits,
        labels=torch.tensor([0]),
        target_labels=torch.tensor([target]),
        class_subspaces={1: torch.tensor(rows)},
    )


def test_a_perturbation_inside_the_subspace_has_all_of_it():
    diagonal = [math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0]
    assert share([0.2, 0.2, 0.0, 0.0], [diagonal]).item() == pytest.approx(1, abs=1e-6)
    assert share([-0.2, -0.2, 0.0, 0.0], [diagonal]).item() == pytest.approx(1, abs=1e-6)


def test_a_perturbation_at_right_angles_has_nothing():
    assert share([0.0, 0.0, 0.3, -0.3], [[1.0, 0, 0, 0], [0, 1.0, 0, 0]]).item() == 0


def test_energy_is_counted_not_length():
    # 3-4-5: of 25 parts of energy 9 lie along the row, of 5 of length 3
    assert share([0.3, 0.4, 0.0, 0.0], [[1.0, 0, 0, 0]]).item() == pytest.approx(9 / 25, abs=1e-6)


def test_random_noise_has_rank_over_pixels():
    pixels, rank, count = 100, 9, 4000
    generator = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(pixels, rank, generator=generator)).Q.T
    noise = 0.05 * torch.randn(count, 1, 10, 10, generator=generator)
    values = class_subspace_share(
        generated=(0.5 + noise).clamp(0, 1),
        real=torch.full_like(noise, 0.5),
        clean_logits=RIGHT.expand(count, 3),
        labels=torch.zeros(count, dtype=torch.long),
        target_labels=torch.ones(count, dtype=torch.long),
        class_subspaces={1: rows},
    )
    # the share follows Beta(r/2, (P − r)/2), whose variance is 2 r (P − r) / (P² (P + 2))
    spread = math.sqrt(2 * rank * (pixels - rank) / (pixels**2 * (pixels + 2)) / count)
    assert values.mean().item() == pytest.approx(rank / pixels, abs=4 * spread)


def test_no_change_no_subspace_and_wrong_originals_have_no_value():
    row = [[1.0, 0, 0, 0]]
    assert share([0.0, 0, 0, 0], row).isnan().all()
    assert share([0.1, 0, 0, 0], row, target=2).isnan().all()
    wrong = torch.tensor([[0.0, 1.0, 0.0]])
    assert share([0.1, 0, 0, 0], row, clean_logits=wrong) == Undefined("no image was right before the attack")


def test_a_target_that_is_no_class_is_refused():
    with pytest.raises(ShapeError, match=r"should lie in \[0, 3\)"):
        share([0.1, 0, 0, 0], [[1.0, 0, 0, 0]], target=3)
