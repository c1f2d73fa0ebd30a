"""Pictures in folders and zips: transforms, classes, splits, ImageNet's indices, damage."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.contract import SetupError
from bench.zoo.datasets import Dataset, EvalTransform, open_dataset

TENCH, GOLDFISH, CASSETTE_PLAYER = "n01440764", "n01443537", "n02979186"  # classes 0, 1, 482


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Smooth noise, so that interpolation matters."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def png(seed: int, **size: int) -> bytes:
    stream = io.BytesIO()
    picture(seed, **size).save(stream, "PNG")
    return stream.getvalue()


def write(source: Path, *names: str) -> Path:
    """A picture for each name, the n-th made from seed n; ``source`` is a folder or, ending in .zip, a zip."""
    files = {name: png(seed) for seed, name in enumerate(names)}
    if source.suffix == ".zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    for name, data in files.items() if source.suffix != ".zip" else ():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    return source


def classes(count: int, *names: str, prefix: str = "") -> list[str]:
    return [f"{prefix}{name}/{number:03d}.png" for name in names for number in range(count)]


def opened(source: Path, size: int = 16) -> Dataset:
    return open_dataset("imagefolder", folder=source, size=size)


# ---- transforms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 301), (256, 256), (90, 57)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.875), (64, 1.0), (96, 0.9)])
def test_centre_transform_equals_timms(width, height, interpolation, size, crop_pct):
    from timm.data import create_transform

    source = picture(0, width, height)
    theirs = create_transform((3, size, size), interpolation=interpolation, crop_pct=crop_pct, normalize=False)(source)
    mine = EvalTransform(size=size, crop_pct=crop_pct, interpolation=interpolation)(source)
    assert np.array_equal(np.asarray(mine).transpose(2, 0, 1), np.asarray(theirs))


def test_centre_transform_equals_torchvisions_preset():
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    preset = ImageClassification(crop_size=224, mean=(0, 0, 0), std=(1, 1, 1), interpolation=InterpolationMode.BILINEAR)
    source = picture(1, 333, 270)
    theirs = (preset(source) * 255).round().to(torch.uint8)
    assert np.array_equal(np.asarray(EvalTransform()(source)).transpose(2, 0, 1), theirs.numpy())


def test_squash_keeps_the_whole_picture():
    left_white = Image.fromarray(np.repeat([[255] * 30 + [0] * 30], 20, axis=0).astype(np.uint8)).convert("RGB")
    columns = np.asarray(EvalTransform(size=10, crop_mode="squash")(left_white))[:, :, 0].mean(0)
    assert columns[:4].min() > 250 and columns[6:].max() < 5


@pytest.mark.parametrize("wrong", [{"size": 0}, {"crop_pct": 1.2}, {"interpolation": "area"}, {"crop_mode": "border"}])
def test_a_transform_that_does_not_exist_is_refused(wrong):
    with pytest.raises(SetupError):
        EvalTransform(**wrong)


# ---- the user's own folder -----------------------------------------------------------------------------------------


def test_class_folders_in_sorted_order_are_the_classes(tmp_path):
    data = opened(write(tmp_path, *classes(10, "zebra", "ant")))
    assert data.card.class_names == ("ant", "zebra")
    assert data.card.num_classes == 2 and data.card.image_shape == (3, 16, 16)
    assert {split: data.labels(split).bincount().tolist() for split in data.splits} == {
        "train": [7, 7],
        "validation": [1, 1],
        "test": [2, 2],
    }


def test_pictures_are_resized_and_cropped_as_timm_does(tmp_path):
    from timm.data import create_transform

    data = opened(write(tmp_path, *classes(1, "train/a", "train/b", "test/a")), size=20)
    transform = create_transform((3, 20, 20), interpolation="bilinear", crop_pct=1.0, normalize=False)
    assert np.array_equal(data.images("test")[0].numpy(), np.asarray(transform(picture(2))))


def test_a_transform_of_the_callers_replaces_the_sets_own(tmp_path):
    data = opened(write(tmp_path, *classes(1, "test/a", "test/b")))
    assert data.images("test", transform=EvalTransform(size=24)).shape == (2, 3, 24, 24)


def test_a_zip_gives_the_same_as_its_folder(tmp_path):
    names = classes(10, "a", "b")
    folder, packed = opened(write(tmp_path / "folder", *names)), opened(write(tmp_path / "packed.zip", *names))
    for split in folder.splits:
        assert torch.equal(folder.images(split), packed.images(split))
        assert folder.digest(split) == packed.digest(split)


def test_split_folders_are_used_and_a_wrapping_folder_is_passed_over(tmp_path):
    data = opened(write(tmp_path / "x.zip", *classes(20, "a", "b", prefix="pets/train/"), "pets/test/a/1.png"))
    assert {split: len(data.labels(split)) for split in data.splits} == {"train": 36, "validation": 4, "test": 1}


def test_without_a_test_folder_the_validation_folder_is_the_test_split(tmp_path):
    data = opened(write(tmp_path, *classes(9, "a", "b", prefix="train/"), *classes(3, "a", "b", prefix="val/")))
    assert {split: len(data.labels(split)) for split in data.splits} == {"train": 17, "validation": 1, "test": 6}


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    write(tmp_path, *classes(1, "test/a", "test/b"), ".thumbs/a/1.png", "__MACOSX/a/._1.png", "test/a/._000.png")
    (tmp_path / "test/a/notes.txt").write_text("no picture")
    assert opened(tmp_path).labels("test").tolist() == [0, 1]


@pytest.mark.parametrize("names", [classes(3, "only"), ["loose.png", "a/1.png", "b/1.png"]], ids=["one class", "loose"])
def test_a_folder_without_two_classes_is_refused(tmp_path, names):
    with pytest.raises(SetupError, match="should have 2 or more class folders"):
        opened(write(tmp_path, *names))


def test_an_empty_folder_a_missing_one_and_a_broken_zip_are_told_apart(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match="empty holds no pictures"):
        opened(tmp_path / "empty")
    with pytest.raises(SetupError, match=r"gone.zip does not exist"):
        opened(tmp_path / "gone.zip")
    (tmp_path / "broken.zip").write_bytes(b"PK but no more")
    with pytest.raises(SetupError, match=r"broken.zip is neither a folder nor a readable zip"):
        opened(tmp_path / "broken.zip")


def test_a_damaged_picture_is_named(tmp_path):
    data = opened(write(tmp_path, *classes(1, "test/a", "test/b")))
    (tmp_path / "test/b/000.png").write_bytes(png(0)[:60])
    with pytest.raises(SetupError, match=r"test/b/000.png cannot be read as a picture"):
        data.images("test")
    assert data.images("test", torch.tensor([0])).shape == (1, 3, 16, 16)


def test_a_damaged_member_of_a_zip_is_named(tmp_path):
    source = write(tmp_path / "x.zip", *classes(1, "test/a", "test/b"))
    data = opened(source)
    raw = bytearray(source.read_bytes())
    raw[raw.index(b"test/b/000.png") + 100] ^= 0xFF  # inside the stored picture: its CRC is wrong now
    source.write_bytes(raw)
    with pytest.raises(SetupError, match=r"test/b/000.png cannot be read as a picture \(BadZipFile"):
        data.images("test")


def test_a_folder_must_be_given():
    with pytest.raises(SetupError, match="imagefolder needs a folder"):
        open_dataset("imagefolder")


# ---- ImageNet ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    monkeypatch.delenv("GLASSBENCH_IMAGENET", raising=False)


def test_wnid_folders_have_their_imagenet_index_though_most_classes_are_absent(tmp_path):
    data = open_dataset("imagenet", folder=write(tmp_path, *classes(2, CASSETTE_PLAYER, GOLDFISH, TENCH)))
    assert data.splits == ("test",)
    assert data.labels("test").tolist() == [0, 0, 1, 1, 482, 482]
    assert data.images("test", torch.tensor([0])).shape == (1, 3, 224, 224)


def test_a_class_index_file_wins(tmp_path):
    source = write(tmp_path / "pictures", *classes(1, TENCH, GOLDFISH))
    (tmp_path / "class_index.csv").write_text(f"index,wnid,name\n7,{TENCH},x\n9,{GOLDFISH},y\n")
    assert open_dataset("imagenet", folder=source).labels("test").tolist() == [7, 9]


def test_a_folder_that_is_no_wnid_is_named(tmp_path):
    with pytest.raises(SetupError, match="folder 'cats' is not the wnid of an ImageNet class"):
        open_dataset("imagenet", folder=write(tmp_path, *classes(1, TENCH, "cats")))


def test_imagenets_validation_part_is_the_test_split(tmp_path):
    names = [*classes(10, TENCH, GOLDFISH, prefix="train/"), *classes(3, TENCH, prefix="val/")]
    data = open_dataset("imagenet", folder=write(tmp_path, *names))
    assert {split: len(data.labels(split)) for split in data.splits} == {"train": 18, "validation": 2, "test": 3}


@pytest.mark.parametrize("way", ["environment", "root", "below the root"])
def test_imagenet_is_found(tmp_path, monkeypatch, way):
    place = tmp_path / "imagenet" if way == "below the root" else tmp_path
    write(place, *classes(2, TENCH, prefix="val/"))
    if way == "environment":
        monkeypatch.setenv("GLASSBENCH_IMAGENET", str(place))
    data = open_dataset("imagenet", None if way == "environment" else tmp_path)
    assert data.labels("test").tolist() == [0, 0]


def test_imagenet_that_is_nowhere_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(SetupError, match=r"imagenet: no folder is given(.|\n)*GLASSBENCH_IMAGENET"):
        open_dataset("imagenet", tmp_path)


def listed(tmp_path: Path, text: str) -> Dataset:
    source = write(tmp_path / "flat", "1.png", "2.png", "3.png")
    (tmp_path / "list.csv").write_text(text)
    return open_dataset("imagenet", folder=source, file_list=tmp_path / "list.csv")


def test_a_file_list_picks_pictures_and_gives_their_labels(tmp_path):
    data = listed(tmp_path, "path,label\n3.png,5\n1.png,999\n")
    assert data.labels("test").tolist() == [999, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n1.png,1000\n", "1.png has label 1000, expected 0 to 999"),
        ("path,label\n9.png,1\n", "1 of 1 pictures are not in"),
        ("path,label\n1.png,cat\n", "is not a file list"),
        ("file,class\n1.png,1\n", "is not a file list"),
        ("path,label\n", "0 of 0 pictures"),
    ],
)
def test_a_wrong_file_list_is_refused(tmp_path, text, message):
    with pytest.raises(SetupError, match=message):
        listed(tmp_path, text)
