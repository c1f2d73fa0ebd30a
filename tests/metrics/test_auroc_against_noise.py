import pytest
import torch
from sklearn.metrics import roc_auc_score

from bench.contract import ShapeError, Undefined
from metrics.auroc_against_noise import auroc_against_noise

KINDS = torch.arange(6) % 3
ATTACKED, NOISY = KINDS == 2, KINDS == 1


def test_clean_images_do_not_count():
    for clean in (-9.0, 9.0):
        scores = torch.tensor([clean, 1.0, 2.0, clean, 3.0, 4.0])  # 2 above 1, 4 above 1 and 3
        assert auroc_against_noise(scores=scores, attacked=ATTACKED, noisy=NOISY).item() == 0.75


def test_a_detector_of_change_itself_is_at_one_half():
    scores = (KINDS > 0).float()
    assert auroc_against_noise(scores=scores, attacked=ATTACKED, noisy=NOISY).item() == 0.5


@pytest.mark.parametrize("levels", [4, 10_000])
def test_agrees_with_scikit_learn_on_attacked_and_noisy_images(levels: int):
    generator = torch.Generator().manual_seed(levels)
    kinds = torch.randint(0, 3, (400,), generator=generator)
    scores = torch.randint(0, levels, (400,), generator=generator).float() + levels / 5 * (kinds == 2)
    kept = kinds > 0
    expected = roc_auc_score((kinds == 2)[kept].numpy(), scores[kept].numpy())
    found = auroc_against_noise(scores=scores, attacked=kinds == 2, noisy=kinds == 1)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_without_noisy_or_attacked_images_it_is_undefined():
    nobody = torch.zeros(6, dtype=torch.bool)
    for attacked, noisy, counts in ((ATTACKED, nobody, "2 attacked and 0"), (nobody, NOISY, "0 attacked and 2")):
        answer = auroc_against_noise(scores=torch.zeros(6), attacked=attacked, noisy=noisy)
        assert answer == Undefined(f"needs images of both kinds, got {counts} noisy")


def test_an_image_that_is_both_and_kinds_as_numbers_are_refused():
    with pytest.raises(ShapeError, match="noisy images should not be attacked, 2 are"):
        auroc_against_noise(scores=torch.zeros(6), attacked=ATTACKED, noisy=ATTACKED)
    with pytest.raises(ShapeError, match="noisy should be bool"):
        auroc_against_noise(scores=torch.zeros(6), attacked=ATTACKED, noisy=NOISY.long())
