"""One pass over a set serves every metric that asks what a network saw in it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.execute import lab as lab_module
from bench.execute.features import SETS_KEPT, FeatureCache, set_digest
from bench.execute.lab import Lab
from bench.record import Store
from tests import toys

CPU = torch.device("cpu")


class Counting:
    """Gives features, and counts how often it was asked."""

    def __init__(self, shift: float = 0.0) -> None:
        self.asked, self.shift = 0, shift

    def __call__(self) -> dict[str, Tensor]:
        self.asked += 1
        return {"penultimate": torch.arange(6.0).view(3, 2) + self.shift}


def test_what_is_known_is_not_computed_again(tmp_path: Path):
    cache, compute = FeatureCache(tmp_path, CPU), Counting()
    for _ in range(3):
        found = cache.get("images", "network", compute, lasting=False)
    assert compute.asked == 1
    assert torch.equal(found["penultimate"], Counting()()["penultimate"])
    assert not list(tmp_path.iterdir())


def test_other_images_and_other_weights_are_computed_by_themselves(tmp_path: Path):
    cache, compute = FeatureCache(tmp_path, CPU), Counting()
    for images, network in (("a", "x"), ("b", "x"), ("a", "y")):
        cache.get(images, network, compute, lasting=True)
    assert compute.asked == 3


def test_reference_features_outlive_the_process(tmp_path: Path):
    FeatureCache(tmp_path, CPU).get("images", "network", Counting(), lasting=True)
    later = Counting(shift=100)
    found = FeatureCache(tmp_path, CPU).get("images", "network", later, lasting=True)
    assert later.asked == 0
    assert torch.equal(found["penultimate"], Counting()()["penultimate"])


@pytest.mark.parametrize("damage", [b"", b"not a tensor file", None])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: bytes | None):
    FeatureCache(tmp_path, CPU).get("images", "network", Counting(), lasting=True)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    compute = Counting()
    found = FeatureCache(tmp_path, CPU).get("images", "network", compute, lasting=True)
    assert compute.asked == 1
    assert torch.equal(found["penultimate"], compute()["penultimate"])


def test_memory_holds_the_last_few_sets(tmp_path: Path):
    cache = FeatureCache(tmp_path, CPU)
    first = Counting()
    cache.get("first", "network", first, lasting=False)
    for number in range(SETS_KEPT):
        cache.get(f"set {number}", "network", Counting(), lasting=False)
    cache.get("first", "network", first, lasting=False)
    assert first.asked == 2


def test_a_sets_name_depends_on_every_pixel_its_shape_and_its_type():
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[3, 2, 7, 7] += 1e-6
    named = {set_digest(one) for one in (images, changed, images.view(2, 6, 8, 8), images.double())}
    assert len(named) == 4
    assert set_digest(images.to(memory_format=torch.channels_last)) == set_digest(images)


@pytest.mark.parametrize("batch", [1, 3, 7, 1000])
def test_the_size_of_a_batch_changes_no_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int):
    model, images = toys.toy_classifier(), toys.smooth_images(10, 3)
    lab = Lab(Store.create(tmp_path), None, CPU)
    lab._checksums["toy"] = model.checksum()
    with torch.no_grad():
        whole = model.observe(images, ("penultimate",))
    monkeypatch.setattr(lab_module, "BATCH", batch)
    seen = lab.look("toy", None, model, set_digest(images), lambda: images, lasting=False)
    torch.testing.assert_close(seen["logits"], whole.logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(seen["penultimate"], whole.features["penultimate"].flatten(1), rtol=1e-6, atol=1e-6)


def test_logits_and_features_of_a_set_cost_one_pass(tmp_path: Path):
    model, images = toys.toy_classifier(), toys.smooth_images(10, 3)
    lab = Lab(Store.create(tmp_path), None, CPU)
    lab._checksums["toy"] = model.checksum()
    for _ in range(3):
        lab.look("toy", None, model, set_digest(images), lambda: images, lasting=False)
    assert model.passes.forward == len(images)
