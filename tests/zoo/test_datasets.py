"""Data sets: names, fixed splits and subsets, file formats, missing and damaged files."""

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.contract import SetupError
from bench.ops import AUGMENTATIONS
from bench.zoo.datasets import (
    Dataset,
    DatasetCard,
    EvalTransform,
    balanced_order,
    cifar,
    dataset_card,
    dataset_names,
    explain,
    open_dataset,
    small,
)
from bench.zoo.datasets.card import DataFile, Layout, registered
from bench.zoo.datasets.parts import Pixels

EVERY_NAME = {
    "cifar10",
    "cifar10_exact5k",
    "cifar10_jpeg75",
    "digits",
    "fashion_mnist",
    "imagefolder",
    "imagenet",
    "imagenette",
    "mnist",
    "nips17",
    "svhn",
    "textures",
}
real_data = pytest.mark.skipif(
    not (Path(os.environ.get("GLASSBENCH_DATA", "")) / "mnist").is_dir(), reason="GLASSBENCH_DATA has no real files"
)


@pytest.fixture
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)


def random_bytes(*shape: int, below: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, below, shape).astype(np.uint8)


def numbered(labels: list[int], **card: object) -> Dataset:
    """A data set whose image i is filled with the number i."""
    images = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], (len(labels), 1, 2, 2))
    changed = dataclasses.replace(dataset_card("digits"), name="numbered", **card)
    return Dataset(changed, {"train": lambda: Pixels(images.copy(), np.array(labels))})


def numbers(data: Dataset, split: str) -> list[int]:
    return data.images(split)[:, 0, 0, 0].tolist()


def written(root: Path, files: Mapping[str, tuple[str, bytes]]) -> Layout:
    """Write role → (path, bytes) below ``root``; returns the layout with their true checksums."""
    layout = {}
    for role, (path, data) in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        layout[role] = DataFile(path=path, checksum=f"sha256:{hashlib.sha256(data).hexdigest()}")
    return layout


def loaded(name: str, root: Path, *layouts: Layout) -> Dataset:
    """The data set ``name`` with other files than the real ones."""
    entry = registered(name)
    return entry.load(dataclasses.replace(entry.card, layouts=layouts, cut={}), root)


# ---- names and cards -----------------------------------------------------------------------------------------------


def test_every_data_set_is_registered():
    assert set(dataset_names()) == EVERY_NAME
    assert dataset_names() == sorted(dataset_names())


@pytest.mark.parametrize("name", sorted(EVERY_NAME))
def test_cards_agree_with_themselves(name):
    card = dataset_card(name)
    assert card.name == name
    assert len(card.mean) == len(card.std) == card.image_shape[0]
    assert card.augment in AUGMENTATIONS
    assert card.class_names is None or len(card.class_names) == card.num_classes
    assert card.description and card.licence
    for layout in card.layouts:
        for file in layout.values():
            algorithm, _, digest = file.checksum.partition(":")
            assert not file.checksum or len(digest) == {"sha256": 64, "md5": 32}[algorithm]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(SetupError, match=r"no data set named 'fashon_mnist'. Did you mean 'fashion_mnist'\?"):
        dataset_card("fashon_mnist")


def test_an_option_that_a_data_set_does_not_take_is_refused(tmp_path):
    with pytest.raises(SetupError, match="digits takes no option 'folder'"):
        open_dataset("digits", folder=tmp_path)


def test_checksums_and_addresses_are_those_that_torchvision_publishes():
    from torchvision.datasets import CIFAR10, SVHN

    published = dict(CIFAR10.train_list + CIFAR10.test_list)
    assert {batch: f"md5:{published[batch]}" for batch in published} == dict(cifar.PICKLED)
    for part in ("train", "test"):
        address, file_name, md5 = SVHN.split_list[part]
        assert small.SVHN_FILES[Path(file_name).stem] == f"md5:{md5}"
        assert dataset_card("svhn").addresses(file_name) == [address]
    for name in ("mnist", "fashion_mnist", "cifar10"):
        card = dataset_card(name)
        for file in card.files:
            own = Path(file.path).name
            assert all(address.startswith("http") and address.endswith(f"/{own}") for address in card.addresses(own))
            assert card.addresses(own)


# ---- splits and subsets --------------------------------------------------------------------------------------------


def order_by_definition(labels, salt):
    """Rounds over the classes as plain loops: in round r the r-th image of each class, smallest key first."""
    stream = hashlib.shake_256(salt.encode()).digest(8 * len(labels))
    key = [int.from_bytes(stream[8 * place : 8 * place + 8], "big") for place in range(len(labels))]
    queues = {
        label: sorted((p for p, own in enumerate(labels) if own == label), key=key.__getitem__) for label in set(labels)
    }
    order = []
    while any(queues.values()):
        order += sorted((queue.pop(0) for queue in queues.values() if queue), key=key.__getitem__)
    return order


def test_balanced_order_agrees_with_its_definition():
    labels = random_bytes(200, below=7).astype(np.int64)
    assert balanced_order(labels, "salt").tolist() == order_by_definition(labels.tolist(), "salt")


def test_balanced_order_depends_on_the_salt():
    labels = np.zeros(50, np.int64)
    assert balanced_order(labels, "a").tolist() != balanced_order(labels, "b").tolist()


def test_cut_splits_are_disjoint_balanced_and_complete():
    data = numbered([0, 1, 2, 3] * 25, cut={"test": 20, "validation": 8})
    splits = {split: numbers(data, split) for split in data.splits}
    assert {split: len(found) for split, found in splits.items()} == {"train": 72, "validation": 8, "test": 20}
    assert sorted(number for found in splits.values() for number in found) == list(range(100))
    for split, found in splits.items():
        assert found == sorted(found), f"{split} is not in the order of the files"
        assert data.labels(split).tolist() == [number % 4 for number in found]
    assert data.labels("test").bincount().tolist() == [5] * 4
    assert data.labels("validation").bincount().tolist() == [2] * 4


def test_a_smaller_subset_begins_a_larger_one_and_both_are_balanced():
    data = numbered([0, 1, 2, 3] * 25, cut={})
    ten, twenty = data.select("train", 10), data.select("train", 20)
    assert twenty[:10].tolist() == ten.tolist()
    assert len(set(twenty.tolist())) == 20
    assert data.labels("train")[twenty].bincount().tolist() == [5] * 4
    assert sorted(data.labels("train")[ten].bincount().tolist()) == [2, 2, 3, 3]


def test_a_subset_smaller_than_the_number_of_classes_is_not_its_first_classes():
    data = numbered(list(range(100)), cut={})
    assert max(data.labels("train")[data.select("train", 10)].tolist()) > 20


@pytest.mark.parametrize("count", [0, 101])
def test_a_subset_of_impossible_size_is_refused(count):
    data = numbered([0, 1] * 50, cut={})
    with pytest.raises(SetupError, match=f"numbered train has 100 images, {count} were asked for"):
        data.select("train", count)


def test_places_pick_images_in_their_order():
    data = numbered([0, 1] * 10, cut={})
    assert data.images("train", torch.tensor([7, 2, 2]))[:, 0, 0, 0].tolist() == [7, 2, 2]


@pytest.mark.parametrize("place", [-1, 20])
def test_places_outside_the_split_are_refused(place):
    with pytest.raises(SetupError, match="should be 0 to 19"):
        numbered([0, 1] * 10, cut={}).images("train", torch.tensor([place]))


def test_a_split_that_the_source_does_not_have_is_refused():
    with pytest.raises(SetupError, match=r"numbered has no split 'validation'\n  it has: train"):
        numbered([0, 1], cut={}).labels("validation")


def test_images_in_memory_take_no_transform():
    with pytest.raises(SetupError, match="take no transform"):
        numbered([0, 1], cut={}).images("train", transform=EvalTransform())


def test_digest_sees_pixels_labels_and_order():
    images, labels = random_bytes(6, 1, 2, 2), np.array([0, 1, 0, 1, 0, 1])

    def digest(images, labels):
        card = dataclasses.replace(dataset_card("digits"), cut={})
        return Dataset(card, {"train": lambda: Pixels(images, labels)}).digest("train")

    changed = images.copy()
    changed[3, 0, 1, 1] ^= 1
    assert digest(images, labels) == digest(images.copy(), labels)
    others = {digest(changed, labels), digest(images, 1 - labels), digest(images[::-1], labels)}
    assert len(others | {digest(images, labels)}) == 4


def test_digest_of_places_is_that_of_the_images_chosen():
    data = numbered([0, 1] * 10, cut={})
    expected = hashlib.sha256(np.array([1, 0], "<i8").tobytes())
    for number in (3, 8):
        expected.update(hashlib.sha256(bytes([number] * 4)).digest())
    assert data.digest("train", torch.tensor([3, 8])) == expected.hexdigest()


# ---- digits --------------------------------------------------------------------------------------------------------


def test_digits_splits_are_fixed_for_ever(no_root):
    """A changed digest means changed data: every stored record of the embedded suite would be stale."""
    data = open_dataset("digits")
    assert [len(data.labels(split)) for split in ("train", "validation", "test")] == [1197, 200, 400]
    assert data.labels("test").bincount().tolist() == [40] * 10
    assert data.labels("validation").bincount().tolist() == [20] * 10
    labels = b"".join(data.labels(split).numpy().astype("<i8").tobytes() for split in data.splits)
    assert hashlib.sha256(labels).hexdigest()[:12] == "6e79a4b02e37"
    assert data.digest("test")[:12] == "0d6ca784e261"
    assert data.select("test", 12).tolist() == [304, 359, 282, 331, 172, 358, 380, 338, 254, 337, 134, 386]


def test_digits_are_the_source_enlarged_bilinearly(no_root):
    from sklearn.datasets import load_digits

    data = open_dataset("digits")
    images = torch.cat([data.images(split) for split in data.splits])
    assert images.shape == (1797, 1, 28, 28) and images.dtype == torch.uint8
    assert (images.min(), images.max()) == (0, 255)
    source = torch.tensor(load_digits().images / 16 * 255)[:, None]
    enlarged = torch.nn.functional.interpolate(source, size=(28, 28), mode="bilinear", align_corners=False)
    # another order, so compare the images sorted by their sums, which rounding moves by far less than a digit
    mine, theirs = (x.double().mean((1, 2, 3)).sort().values for x in (images, enlarged))
    torch.testing.assert_close(mine, theirs, atol=0.3, rtol=0)
    nearest = torch.cdist(images[:50].double().flatten(1), enlarged.flatten(1), p=torch.inf).min(1).values
    assert nearest.max() <= 1.5  # two roundings


# ---- file formats --------------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_idx_file_is_read_packed_or_not(pack):
    values = random_bytes(3, 4, 5)
    assert np.array_equal(small.parse_idx(pack(idx(values)), "file"), values)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"0",
        lambda data: data[:3],
        lambda data: b"",
        lambda data: b"\0\0\x0d" + data[3:],
        lambda data: gzip.compress(data)[:-9],
        lambda data: gzip.compress(data)[:40] + b"\xff" * 20,
    ],
    ids=["short", "long", "no header", "empty", "floats", "gzip cut short", "gzip overwritten"],
)
def test_a_damaged_idx_file_is_named(damage):
    with pytest.raises(SetupError, match=r"train-images.*\n  copy or fetch it again"):
        small.parse_idx(damage(idx(random_bytes(3, 4, 5))), "train-images")


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_mnist_files_become_images_with_one_channel(tmp_path, folder, pack):
    values, labels = random_bytes(7, 28, 28), np.arange(7, dtype=np.uint8)
    files = {}
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", values), ("labels-idx1", labels)):
            files[f"{prefix}-{kind}-ubyte"] = (f"{folder}/{prefix}-{kind}", pack(idx(array)))
    data = loaded("mnist", tmp_path, written(tmp_path, files))
    assert np.array_equal(data.images("test").numpy()[:, 0], values)
    assert data.labels("train").tolist() == list(range(7)) and data.labels("train").dtype == torch.int64


def test_svhn_label_ten_is_class_zero(tmp_path):
    from scipy.io import savemat

    images, labels = random_bytes(5, 3, 32, 32), np.array([10, 1, 9, 10, 3])
    stream = io.BytesIO()
    savemat(stream, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)})
    files = {f"{part}_32x32": (f"svhn/{part}_32x32.mat", stream.getvalue()) for part in ("train", "test")}
    data = loaded("svhn", tmp_path, written(tmp_path, files))
    assert np.array_equal(data.images("train").numpy(), images)
    assert data.labels("train").tolist() == [0, 1, 9, 0, 3]


def cifar_records(count: int) -> tuple[np.ndarray, np.ndarray, bytes]:
    images, labels = random_bytes(count, 3, 32, 32), random_bytes(count, below=10)
    return images, labels, np.concatenate([labels[:, None], images.reshape(count, -1)], axis=1).tobytes()


def test_cifar10_is_read_from_its_binary_archive(tmp_path):
    images, labels, records = cifar_records(4)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for batch in reversed(list(cifar.PICKLED)):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{batch}.bin")
            member.size = len(records)
            tar.addfile(member, io.BytesIO(records))
    data = loaded("cifar10", tmp_path, written(tmp_path, {"archive": ("cifar10/x.tar.gz", stream.getvalue())}))
    assert np.array_equal(data.images("train").numpy(), np.concatenate([images] * 5))
    assert data.labels("test").tolist() == labels.tolist()


def test_cifar10_is_read_from_its_python_batches(tmp_path):
    images, labels, _ = cifar_records(4)
    batch = pickle.dumps({b"data": images.reshape(4, -1), b"labels": labels.tolist()}, protocol=2)
    files = {name: (f"cifar-10-batches-py/{name}", batch) for name in cifar.PICKLED}
    data = loaded("cifar10", tmp_path, written(tmp_path, files))
    assert np.array_equal(data.images("train").numpy(), np.concatenate([images] * 5))
    assert data.labels("test").tolist() == labels.tolist()


def test_a_python_batch_with_another_checksum_is_never_unpickled(tmp_path):
    for batch in cifar.PICKLED:
        path = tmp_path / "cifar-10-batches-py" / batch
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not a pickle")
    with pytest.raises(SetupError, match="test_batch: md5 should be 40351d587109b95175f43aff81a1287e"):
        open_dataset("cifar10", tmp_path).labels("test")


def test_a_python_batch_can_build_nothing_but_arrays():
    with pytest.raises(SetupError, match="asks for builtins"):
        cifar.parse_pickled(pickle.dumps(print))


def test_unpacked_binary_batches_that_are_not_the_official_ones_are_refused(tmp_path):
    records = cifar_records(1000)[2]
    for batch in cifar.BINARY:
        path = tmp_path / "cifar-10-batches-bin" / f"{batch}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(records)
    with pytest.raises(SetupError, match="test batches in cifar-10-batches-bin are not the official ones"):
        open_dataset("cifar10", tmp_path).labels("test")


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\x0a" + data[1:], lambda data: b""])
def test_binary_records_cut_short_or_with_a_label_above_nine_are_refused(damage):
    with pytest.raises(SetupError, match="records of 3073 bytes with labels 0 to 9"):
        cifar.parse_records(damage(cifar_records(2)[2]), "train")


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """(H, W, 3) → the bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def zipped_arrays(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_each_row_of_an_exact_png_is_one_image(tmp_path):
    images = random_bytes(5, 3, 32, 32)
    png = encoded(images.transpose(0, 2, 3, 1).reshape(5, 1024, 3))
    labels = {"train": np.arange(30, dtype=np.uint8) % 10, "test_first1000": np.arange(9, dtype=np.uint8)}
    files = {f"cifar10_batch_{n}": (f"cifar10/{n}.png", png) for n in (0, 1, 2, 3, 50)}
    files["labels"] = ("cifar10/labels.npz", zipped_arrays(**labels))
    data = loaded("cifar10_exact5k", tmp_path, written(tmp_path, files))
    assert np.array_equal(data.images("test").numpy(), images)
    assert np.array_equal(data.images("train").numpy(), np.concatenate([images] * 4))
    assert data.labels("train").tolist() == [k % 10 for k in range(20)]


def test_jpeg_copies_are_decoded_one_by_one_in_order(tmp_path):
    copies = [encoded(pixels, "JPEG") for pixels in random_bytes(70, 32, 32, 3)]  # more than one errand of a thread
    expected = np.stack([np.asarray(Image.open(io.BytesIO(copy))) for copy in copies]).transpose(0, 3, 1, 2)
    archive = zipped_arrays(
        jpeg=np.frombuffer(b"".join(copies), np.uint8),
        offsets=np.cumsum([0, *map(len, copies)]).astype(np.int32),
        labels=np.arange(70, dtype=np.uint8) % 10,
    )
    files = {f"jpeg_{part}": (f"cifar10/jpeg_{part}.npz", archive) for part in ("train", "test")}
    data = loaded("cifar10_jpeg75", tmp_path, written(tmp_path, files))
    assert np.array_equal(data.images("test").numpy(), expected)
    assert np.array_equal(data.images("test", torch.tensor([69, 3])).numpy(), expected[[69, 3]])


def zipped_pictures(pictures: Mapping[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, pixels in pictures.items():
            archive.writestr(name, encoded(pixels))
    return stream.getvalue()


def test_nips17_labels_count_from_one_and_pictures_are_squashed_to_224(tmp_path):
    pictures = {"b.png": random_bytes(299, 299, 3), "a.png": random_bytes(299, 299, 3)[::-1]}
    table = b"ImageId,TrueLabel,TargetClass\nb,1,7\na,1000,8\n"
    files = {"images": ("x.zip", zipped_pictures(pictures)), "labels": ("x.csv", table)}
    data = loaded("nips17", tmp_path, written(tmp_path, files))
    assert data.labels("test").tolist() == [999, 0]
    expected = np.asarray(Image.fromarray(pictures["a.png"]).resize((224, 224), Image.Resampling.BILINEAR))
    assert np.array_equal(data.images("test")[0].numpy(), expected.transpose(2, 0, 1))


def test_imagenette_folders_have_imagenet_indices_in_sorted_order(tmp_path):
    wnids = [f"n{number:08d}" for number in (5, 3, 9, 1, 2, 8, 4, 7, 6, 0)]
    archive = zipped_pictures({f"{wnid}/x.png": random_bytes(224, 224, 3) for wnid in wnids})
    files = {part: (f"{part}.zip", archive) for part in ("train", "test")}
    data = loaded("imagenette", tmp_path, written(tmp_path, files))
    assert data.labels("test").tolist() == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert np.array_equal(
        data.images("train", torch.tensor([0]))[0].numpy(), random_bytes(224, 224, 3).transpose(2, 0, 1)
    )


def test_a_texture_is_known_by_its_folder(tmp_path):
    archive = zipped_pictures({f"{name}/x.png": random_bytes(256, 300, 3) for name in ("cracked", "banded")})
    data = loaded("textures", tmp_path, written(tmp_path, {"images": ("x.zip", archive)}))
    assert [data.card.class_names[label] for label in data.labels("test")] == ["banded", "cracked"]
    middle = random_bytes(256, 300, 3)[16:240, 38:262].transpose(2, 0, 1)
    assert np.array_equal(data.images("test")[0].numpy(), middle)


def test_a_folder_that_is_no_texture_is_refused(tmp_path):
    archive = zipped_pictures({"meshed/x.png": random_bytes(256, 256, 3)})
    with pytest.raises(SetupError, match="'meshed' is not one of the textures"):
        loaded("textures", tmp_path, written(tmp_path, {"images": ("x.zip", archive)})).labels("test")


# ---- files that are missing or damaged -----------------------------------------------------------------------------


def test_no_data_root_is_said_with_the_files_expected(no_root):
    with pytest.raises(SetupError, match="no data root is given") as caught:
        open_dataset("mnist")
    for expected in (
        "--data DIR or GLASSBENCH_DATA",
        "fetch mnist",
        *(file.path for file in dataset_card("mnist").files),
    ):
        assert expected in str(caught.value)


def test_a_data_root_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SetupError, match="nowhere does not exist"):
        open_dataset("mnist", tmp_path / "nowhere")


def test_the_environment_names_the_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("GLASSBENCH_DATA", str(tmp_path))
    with pytest.raises(SetupError, match=f"{tmp_path} has no mnist/train-images"):
        open_dataset("mnist")


def test_a_missing_file_is_named_with_place_and_checksum(tmp_path):
    for file in dataset_card("mnist").files[1:]:
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).touch()
    with pytest.raises(SetupError) as caught:
        open_dataset("mnist", tmp_path)
    first, *rest = str(caught.value).splitlines()
    absent = dataset_card("mnist").files[0]
    assert first == f"mnist: {tmp_path} has no {absent.path}"
    assert any(absent.path in line and absent.checksum in line and "missing" in line for line in rest)


def test_a_damaged_file_is_named_with_both_checksums(tmp_path):
    for file in dataset_card("mnist").files:
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_bytes(b"damaged")
    with pytest.raises(SetupError) as caught:
        open_dataset("mnist", tmp_path).images("test")
    expected = dict(small.MNIST_PACKED)["t10k-images-idx3-ubyte"].removeprefix("sha256:")
    found = hashlib.sha256(b"damaged").hexdigest()
    assert f"t10k-images-idx3-ubyte.gz: sha256 should be {expected}, found {found}" in str(caught.value)
    assert "run_bench.py fetch mnist" in str(caught.value)


def test_a_file_damaged_after_it_was_checked_is_checked_again(tmp_path):
    files = written(tmp_path, {"images": ("x.zip", b"first"), "labels": ("x.csv", b"")})
    data = loaded("nips17", tmp_path, files)
    (tmp_path / "x.zip").write_bytes(b"second")
    with pytest.raises(SetupError, match=r"x.zip: sha256 should be"):
        data.labels("test")


def test_explain_says_which_files_are_there(tmp_path, no_root):
    files = dataset_card("mnist").files
    (tmp_path / "mnist").mkdir()
    (tmp_path / files[0].path).touch()
    lines = explain("mnist", tmp_path).splitlines()
    assert any(files[0].path in line and line.endswith("found") for line in lines)
    assert any(files[1].path in line and line.endswith("missing") for line in lines)
    assert "nothing to fetch" in explain("digits")


# ---- the real files ------------------------------------------------------------------------------------------------

REAL_COUNTS = {
    "mnist": {"train": 55000, "validation": 5000, "test": 10000},
    "fashion_mnist": {"train": 55000, "validation": 5000, "test": 10000},
    "cifar10_exact5k": {"train": 3600, "validation": 400, "test": 1000},
    "cifar10_jpeg75": {"train": 45000, "validation": 5000, "test": 10000},
    "imagenette": {"train": 1000, "test": 1500},
    "nips17": {"test": 1000},
    "textures": {"test": 200},
}


@real_data
@pytest.mark.parametrize("name", REAL_COUNTS)
def test_real_sets_have_the_published_counts(name):
    data = open_dataset(name)
    assert {split: len(data.labels(split)) for split in data.splits} == REAL_COUNTS[name]
    few = data.images("test", data.select("test", 4))
    assert few.shape == (4, *data.card.image_shape) and few.dtype == torch.uint8


@real_data
def test_real_class_counts_are_the_published_ones():
    zeros_to_nines = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert open_dataset("mnist").labels("test").bincount().tolist() == zeros_to_nines
    assert open_dataset("fashion_mnist").labels("test").bincount().tolist() == [1000] * 10
    jpeg = open_dataset("cifar10_jpeg75")
    assert jpeg.labels("validation").bincount().tolist() == [500] * 10
    wnids = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert Counter(open_dataset("imagenette").labels("test").tolist()) == dict.fromkeys(wnids, 150)
    assert Counter(open_dataset("imagenette").labels("train").tolist()) == dict.fromkeys(wnids, 100)
    assert len(set(open_dataset("nips17").labels("test").tolist())) == 430


@real_data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_idx_files_have_the_md5_that_torchvision_publishes(name):
    from torchvision import datasets

    published = dict({"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name].resources)
    root = Path(os.environ["GLASSBENCH_DATA"])
    for file in dataset_card(name).files:
        path = root / file.path
        assert hashlib.md5(path.read_bytes()).hexdigest() == published[path.name]
        unpacked = {"mnist": small.MNIST_UNPACKED, "fashion_mnist": small.FASHION_UNPACKED}[name]
        assert unpacked[path.stem] == f"sha256:{hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()}"


@real_data
@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist"])
def test_mean_and_std_on_the_card_are_those_of_the_training_split(name):
    card: DatasetCard = dataset_card(name)
    images = open_dataset(name).images("train").double() / 255
    assert images.mean().item() == pytest.approx(card.mean[0], abs=1e-3)
    assert images.std().item() == pytest.approx(card.std[0], abs=1e-3)


@real_data
def test_mean_and_std_of_the_jpeg_copies_are_those_of_a_training_sample():
    data = open_dataset("cifar10_jpeg75")
    images = data.images("train", data.select("train", 4000)).double() / 255
    assert images.mean((0, 2, 3)).tolist() == pytest.approx(data.card.mean, abs=5e-3)
    assert images.std((0, 2, 3)).tolist() == pytest.approx(data.card.std, abs=5e-3)


@real_data
def test_exact_images_match_their_jpeg_copies_between_23_and_40_db():
    exact, copies = open_dataset("cifar10_exact5k"), open_dataset("cifar10_jpeg75")
    first = torch.arange(1000)
    assert torch.equal(exact.labels("test"), copies.labels("test")[:1000])
    error = (exact.images("test").double() - copies.images("test", first).double()) / 255
    psnr = -10 * error.square().mean((1, 2, 3)).log10()
    assert psnr.min() >= 23 and psnr.max() <= 40.5
    assert psnr.median().item() == pytest.approx(30.5, abs=0.5)


@real_data
def test_what_is_known_of_the_official_cifar10_files_are_the_exact_images_and_the_official_labels():
    exact = open_dataset("cifar10_exact5k")
    (_, pixels), (_, labels) = cifar.KNOWN["test"]
    assert hashlib.sha256(exact.images("test").numpy().tobytes()).hexdigest() == pixels
    assert hashlib.sha256(exact.labels("test").numpy().astype(np.uint8).tobytes()).hexdigest() == labels
    official = np.load(Path(os.environ["GLASSBENCH_DATA"]) / "cifar10/official_labels.npz")["train"]
    assert hashlib.sha256(official.tobytes()).hexdigest() == cifar.KNOWN["train"][1][1]


@real_data
def test_real_splits_are_fixed_for_ever():
    prefixes = {"mnist": "d1edd8e2dcb2", "fashion_mnist": "36f44a370c1a", "cifar10_exact5k": "f137ed4b369c"}
    assert {name: open_dataset(name).digest("test")[:12] for name in prefixes} == prefixes
    assert open_dataset("mnist").digest("validation")[:12] == "53a010267c0c"
