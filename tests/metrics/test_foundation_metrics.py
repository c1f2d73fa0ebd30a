"""Metrics that need a published judge network: through the harness, against torch-fidelity, and without the file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bench.execute.cell import rescore
from bench.execute.lab import Lab
from bench.execute.measure import Roles, expected, measure
from bench.plan.cells import Cell
from bench.record import Cost, Reading, Store
from bench.zoo.foundations import judge_card
from metrics.clip_zero_shot_top1 import clip_zero_shot_top1
from tests.execute.tiny import find, make_store, plan_of, run_here
from tests.zoo import judges

FAMILIES = {
    "inception": ("frechet_inception", "kernel_inception"),
    "dinov2": ("frechet_dinov2", "kernel_dinov2"),
    "clip": ("clip_zero_shot_top1",),
    "lpips_alex": ("same_class_lpips_alex", "same_class_lpips_alex_ratio"),
    "lpips_vgg": ("same_class_lpips_vgg", "same_class_lpips_vgg_ratio"),
}
JUDGED = [stem for family in FAMILIES.values() for stem in family]
IMAGES = 6  # made, and as many real ones


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    """A data root with a file of random weights for each judge."""
    with judges.with_random_weights(tmp_path_factory.mktemp("data")) as folder:
        yield folder


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """A cell of real digits, 28 px and grey."""
    return find(plan_of(tmp_path_factory.mktemp("suite"), real_images=IMAGES), "inversion", "real_images")


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Where all files are; a judge is loaded once."""
    return Lab(make_store(tmp_path_factory.mktemp("work")), root, torch.device("cpu"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def pictures(count: int = IMAGES, side: int = 28) -> Tensor:
    """(count, 1, side, side) soft pictures between the levels of 8 bits."""
    coarse = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(3))
    return nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)


def take(cell: Cell, lab: Lab, stems: list[str], generated: Tensor) -> dict[str, Reading]:
    wanted = {stem: expected(cell, stem, "", "") for stem in stems}
    readings, _ = measure(cell, lab, {"generated": generated}, wanted, cost=Cost(), notes={})
    return {reading.stem: reading for reading in readings}


class Shown(Dataset):
    """Pictures as torch-fidelity takes them: colour, 8 bits."""

    def __init__(self, images: Tensor) -> None:
        self.images = (images * 255).round().to(torch.uint8).repeat(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Tensor:
        return self.images[place]


def test_fid_and_kid_of_a_cell_are_those_of_torch_fidelity(cell, lab, root):
    import torch_fidelity

    generated = pictures()
    ours = take(cell, lab, ["frechet_inception", "kernel_inception"], generated)
    theirs = torch_fidelity.calculate_metrics(
        input1=Shown(generated),
        input2=Shown(Roles(cell, lab, {}, Cost(), {}).get("real")),
        feature_extractor_weights_path=str(root / judge_card("inception").file.path),
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=IMAGES,  # all images at once
        save_cpu_ram=True,  # no workers that load the images
        cuda=False,
        cache=False,
        batch_size=IMAGES,
        verbose=False,
    )
    frechet, kernel = ours["frechet_inception"], ours["kernel_inception"]
    assert (frechet.metric, kernel.metric) == ("fid_inception2048_tf", "kid_poly3_inception2048_tf")
    assert frechet.value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert kernel.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert (frechet.n_scored, frechet.n_reference) == (IMAGES, IMAGES)


def test_each_set_of_images_passes_each_judge_once(cell, lab, monkeypatch):
    generated, shown = pictures(), []
    for judge in (lab.judge("dinov2"), lab.judge("clip")):
        look = judge.look
        monkeypatch.setattr(judge, "look", lambda images, look=look: shown.append(len(images)) or look(images))
    stems = ["frechet_dinov2", "kernel_dinov2", "clip_zero_shot_top1"]
    first = take(cell, lab, stems, generated)
    assert shown == [IMAGES, IMAGES, IMAGES]  # DINOv2 both sides, CLIP what was made
    again = take(cell, lab, stems, generated)
    assert len(shown) == 3
    assert [again[stem].value for stem in stems] == [first[stem].value for stem in stems]


def test_clip_is_asked_about_the_digits_by_name(cell, lab):
    generated, judge = pictures(), lab.judge("clip")
    logits = Roles(cell, lab, {"generated": generated}, Cost(), {}).get("clip_logits")
    from open_clip import get_tokenizer

    with torch.no_grad():
        seen = judge.network.encode_text(get_tokenizer("ViT-B-32")([f"a photo of the digit {k}" for k in range(10)]))
        for image, row in zip(generated, logits, strict=True):
            cosines = nn.functional.cosine_similarity(judge(image[None]), seen)
            torch.testing.assert_close(row, cosines * judge.network.logit_scale.exp(), rtol=1e-4, atol=1e-4)


def test_clip_counts_images_whose_nearest_sentence_is_that_of_their_class():
    logits = torch.tensor([[0.1, 0.3, 0.2], [0.9, 0.3, 0.2], [0.1, 0.1, 0.0]])
    assert clip_zero_shot_top1(labels=torch.tensor([1, 1, 0]), clip_logits=logits).tolist() == [1, 0, 1]


def test_same_class_lpips_has_a_value_with_vgg_and_a_reason_with_alexnet_on_digits(tmp_path, lab):
    tracks = {"inversion": {"methods": ["real_images"], "images": 20}}
    cell = find(plan_of(tmp_path, real_images=20, tracks=tracks), "inversion", "real_images")
    readings = take(cell, lab, [*FAMILIES["lpips_alex"], *FAMILIES["lpips_vgg"]], pictures(20))
    reason = "class 0: the network needs 32 px, got 28×28: use same_class_lpips_vgg"
    assert (readings["same_class_lpips_alex"].status, readings["same_class_lpips_alex"].error) == ("undefined", reason)
    assert {readings[stem].status for stem in FAMILIES["lpips_vgg"]} == {"ok"}


@pytest.mark.parametrize("folder", [True, False], ids=["empty data root", "no data root"])
def test_without_its_file_a_reading_is_unsupported_and_says_what_brings_it(cell, store, tmp_path, folder, monkeypatch):
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    lab = Lab(store, tmp_path if folder else None, torch.device("cpu"))
    readings = take(cell, lab, JUDGED, pictures())
    for judge, stems in FAMILIES.items():
        needed = f"needs {judge_card(judge).file.path}, fetch with: run_bench.py fetch {judge}"
        for stem in stems:
            assert (readings[stem].status, readings[stem].value, readings[stem].error) == ("unsupported", None, needed)


def test_a_damaged_file_is_a_failure_not_a_missing_one(cell, store, tmp_path):
    path = tmp_path / judge_card("inception").file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    reading = take(cell, Lab(store, tmp_path, torch.device("cpu")), ["frechet_inception"], pictures())
    assert reading["frechet_inception"].status == "failed"
    assert reading["frechet_inception"].error.startswith(f"SetupError: {path} should have sha256:")


def test_a_file_that_came_later_is_used_when_the_cell_is_scored_again(root, tmp_path, monkeypatch):
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    monkeypatch.setattr(
        "bench.execute.cell.expectations",
        lambda cell, store: {"clip_zero_shot_top1": expected(cell, "clip_zero_shot_top1", "", "")},
    )
    plan, store = plan_of(tmp_path, real_images=IMAGES), make_store(tmp_path)
    cell = find(plan, "inversion", "real_images")
    before = run_here([one for one in plan.cells if one.key in (*cell.needs, cell.key)], store)[-1]
    assert before.status == "ok"
    assert [reading.status for reading in before.readings] == ["unsupported"]
    after = rescore(cell, Lab(store, root, torch.device("cpu")), before, again=True)
    assert [reading.status for reading in after.readings] == ["ok"]
