"""CIFAR-10: the official files, the part of it that exists exactly elsewhere, and a lossy copy of all of it.

Three names, because numbers measured on them are not comparable.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bench.contract import SetupError
from bench.zoo.datasets.card import DataFile, DatasetCard, dataset, spread
from bench.zoo.datasets.dataset import Dataset
from bench.zoo.datasets.files import Found, locate
from bench.zoo.datasets.parts import Pictures, Pixels

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
LICENCE = "none stated; research use (Krizhevsky 2009)"
RECORD_BYTES = 1 + 3 * 32 * 32  # label, then the red, green and blue plane
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
PICKLED = {
    "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
    "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
    "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "md5:40351d587109b95175f43aff81a1287e",
}
BINARY = dict.fromkeys(PICKLED, "")  # no sums of the unpacked files are published: see KNOWN
# sha256 of the pixels of the first images and of labels, in official order, from exact copies
KNOWN = {
    "train": (
        (4000, "28afc872aa454f5edfb44b9dc53187ac9e792b2e75c81b091face3432c78e91b"),
        (50000, "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253"),
    ),
    "test": (
        (1000, "f167149948fc8fe0b9a76ba86421e987817f98b63761ba9415c5d42664d51f03"),
        (1000, "636a087e604331a0b9dafc94b6e9ade0c9cec72c4400d12473ccdb3e264474c1"),
    ),
}


# ---- the official files --------------------------------------------------------------------------------------------


def _archive(path: str) -> dict[str, DataFile]:
    return {"archive": DataFile(path=path, checksum="md5:c32a1d4ab5d03f1284b67883e8d87530")}


def _addresses(file_name: str) -> list[str]:
    from torchvision.datasets import CIFAR10

    return [CIFAR10.url.replace(CIFAR10.filename, file_name)]  # the binary archive lies beside the Python one


@dataset(
    DatasetCard(
        name="cifar10",
        description="50 000 + 10 000 colour pictures of ten kinds of things (Krizhevsky 2009), the official files",
        image_shape=SHAPE,
        num_classes=10,
        class_names=CLASSES,
        mean=MEAN,
        std=STD,
        augment="shift4_flip",
        licence=LICENCE,
        exact=True,
        cut={"validation": 5000},
        layouts=(
            _archive("cifar10/cifar-10-binary.tar.gz"),
            _archive("cifar-10-binary.tar.gz"),
            spread("cifar10/cifar-10-batches-bin", BINARY, ".bin"),
            spread("cifar-10-batches-bin", BINARY, ".bin"),
            spread("cifar10/cifar-10-batches-py", PICKLED),
            spread("cifar-10-batches-py", PICKLED),
        ),
        addresses=_addresses,
    )
)
def cifar10(card: DatasetCard, root: Path | None) -> Dataset:
    """The official test part is the test split. The binary version is preferred: it needs no pickle."""
    found = locate(card, root)
    return Dataset(card, {"train": lambda: _official(found, "train"), "test": lambda: _official(found, "test")})


def _official(found: Found, part: str) -> Pixels:
    if "archive" in found:
        return parse_records(b"".join(_members(found.path("archive"), BATCHES[part])), part)
    if found.suffix("test_batch") == ".bin":
        pixels = parse_records(b"".join(found.read(batch) for batch in BATCHES[part]), part)
        _check_known(pixels, part)
        return pixels
    batches = [parse_pickled(found.read(batch)) for batch in BATCHES[part]]
    return Pixels(np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches]))


def _members(archive: Path, batches: list[str]) -> list[bytes]:
    with tarfile.open(archive, "r:gz") as tar:
        files = [tar.extractfile(f"cifar-10-batches-bin/{batch}.bin") for batch in batches]
        return [file.read() for file in files if file is not None]


def parse_records(data: bytes, part: str) -> Pixels:
    """Records of the binary version: a label from 0 to 9, then 1024 bytes each of red, green and blue.

    Raises:
        SetupError: the bytes are not whole records, or a label is out of range.
    """
    records = np.frombuffer(data, np.uint8)
    if len(records) % RECORD_BYTES or not len(records) or records[::RECORD_BYTES].max() > 9:
        raise SetupError(
            f"cifar10: the {part} batches should be records of {RECORD_BYTES} bytes with labels 0 to 9,"
            f" found {len(records)} bytes",
            "copy the batches again, or run: run_bench.py fetch cifar10",
        )
    records = records.reshape(-1, RECORD_BYTES)
    return Pixels(records[:, 1:].reshape(-1, *SHAPE), records[:, 0])


def parse_pickled(data: bytes) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """One batch of the Python version; call it only with bytes whose published checksum has been compared."""
    batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
    return batch[b"data"].reshape(-1, *SHAPE), np.asarray(batch[b"labels"])


class _BatchUnpickler(pickle.Unpickler):
    """Builds arrays and nothing else: a second lock behind the checksum."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for old readers
            return super().find_class(module, name)
        raise SetupError(f"cifar10: a batch file asks for {module}.{name}", "it is not an official file: delete it")


def _check_known(pixels: Pixels, part: str) -> None:
    """Compare what is known of the official files where no checksum of the file itself is published."""
    (images, pixels_sha), (labels, labels_sha) = KNOWN[part]
    first = pixels.images(np.arange(min(images, len(pixels.labels))), None)
    if (
        hashlib.sha256(first.tobytes()).hexdigest() != pixels_sha
        or hashlib.sha256(pixels.labels[:labels].astype(np.uint8).tobytes()).hexdigest() != labels_sha
    ):
        raise SetupError(
            f"cifar10: the {part} batches in cifar-10-batches-bin are not the official ones"
            f" (pixels of the first {images} images should have sha256 {pixels_sha})",
            "delete the folder, then run: run_bench.py fetch cifar10",
        )


# ---- copies --------------------------------------------------------------------------------------------------------

LABELS = DataFile(
    path="cifar10/official_labels.npz",
    checksum="sha256:1d76329304eefe42c359607bbf5a4e5b200d7a96a569b7308a0311bc58f61175",
)
EXACT = spread(
    "cifar10",
    {
        "cifar10_batch_0": "sha256:0614720d69293a033786d5fe2924c4e9a9b48874f19ca4627c4662a864ee9f2d",
        "cifar10_batch_1": "sha256:2927e26ea68602e34a7424826b76b7336ce36b8f6bcc2e9fce0c05568ff6b4c1",
        "cifar10_batch_2": "sha256:0b2759e307bb405bb1a6531f8a0f557eaec46d7546050612fdb836f0fa60eae0",
        "cifar10_batch_3": "sha256:a4530ff15c83886058a97c352f53f38be07d191de8f410e998e91786b5900a26",
        "cifar10_batch_50": "sha256:5cea9e8fb7933540a2236a4bb25c1ed3a8447f345c55ae659143a95a5d8dac5e",
    },
    ".png",
)
JPEG = spread(
    "cifar10",
    {
        "jpeg_train": "sha256:5b7cdf26c64b1d9bf63e9a3049b8a7f00409b9f865a5b9c56364758f9263229e",
        "jpeg_test": "sha256:9cfd1426c492a6f18817ba162a35c0c87a167ac1d79026b9ee1b7a51a90da133",
    },
    ".npz",
)


@dataset(
    DatasetCard(
        name="cifar10_exact5k",
        description="the first 4 000 training and 1 000 test images of CIFAR-10, exact pixels, official order",
        image_shape=SHAPE,
        num_classes=10,
        class_names=CLASSES,
        mean=MEAN,
        std=STD,
        augment="shift4_flip",
        licence=LICENCE,
        exact=True,
        notes="a part of CIFAR-10; classes are only nearly balanced; mean and std are those of the whole",
        cut={"validation": 400},
        layouts=({"labels": LABELS, **EXACT},),
    )
)
def cifar10_exact5k(card: DatasetCard, root: Path | None) -> Dataset:
    """Test images are the first 1 000 of the official test part."""
    found = locate(card, root)

    def part(label_name: str, batches: list[str]) -> Pixels:
        images = np.concatenate([_rows_of_png(found.read(f"cifar10_batch_{batch}")) for batch in batches])
        labels = np.load(io.BytesIO(found.read("labels")), allow_pickle=False)[label_name]
        return Pixels(images, labels[: len(images)])

    return Dataset(card, {"train": lambda: part("train", list("0123")), "test": lambda: part("test_first1000", ["50"])})


def _rows_of_png(data: bytes) -> np.ndarray[Any, Any]:
    """Each row of the picture is one image, its pixels in reading order: (N, 3, 32, 32)."""
    from PIL import Image

    rows = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))  # (N, 1024, 3)
    return np.ascontiguousarray(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


@dataset(
    DatasetCard(
        name="cifar10_jpeg75",
        description="all 50 000 + 10 000 images of CIFAR-10 as JPEG copies of quality 75",
        image_shape=SHAPE,
        num_classes=10,
        class_names=CLASSES,
        mean=(0.4913, 0.4821, 0.4465),
        std=(0.2452, 0.2428, 0.2606),
        augment="shift4_flip",
        licence=LICENCE,
        exact=False,
        notes="lossy, median 30.5 dB; test images behind the first 1 000 are grouped by class, not in official order",
        cut={"validation": 5000},
        layouts=(JPEG,),
    )
)
def cifar10_jpeg75(card: DatasetCard, root: Path | None) -> Dataset:
    """The copies of the official test part are the test split. Decoded when asked for."""
    found = locate(card, root)
    return Dataset(
        card,
        {
            "train": lambda: _jpeg_part(found.read("jpeg_train"), "cifar10/jpeg_train.npz"),
            "test": lambda: _jpeg_part(found.read("jpeg_test"), "cifar10/jpeg_test.npz"),
        },
    )


def _jpeg_part(archive: bytes, source: str) -> Pictures:
    """JPEG files one after the other in ``jpeg``; file i is ``jpeg[offsets[i]:offsets[i + 1]]``."""
    arrays = np.load(io.BytesIO(archive), allow_pickle=False)
    stored, offsets, labels = arrays["jpeg"], arrays["offsets"], arrays["labels"]

    def read(name: str) -> bytes:
        start, end = offsets[int(name) : int(name) + 2]
        return bytes(stored[start:end])

    names = [str(number) for number in range(len(labels))]
    return Pictures(names, labels, source=source, reading=lambda: nullcontext(read), shape=SHAPE)
