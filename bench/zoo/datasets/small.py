"""Digits, clothes and house numbers: small images, whole in memory."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

import numpy as np

from bench.contract import SetupError, Unsupported
from bench.zoo.datasets.card import DatasetCard, dataset, spread
from bench.zoo.datasets.dataset import Dataset
from bench.zoo.datasets.files import Found, locate
from bench.zoo.datasets.parts import Bytes, Pixels

TEN_DIGITS = tuple("0123456789")
GREY_28 = (1, 28, 28)


# ---- digits: comes with scikit-learn -------------------------------------------------------------------------------


@dataset(
    DatasetCard(
        name="digits",
        description="1797 handwritten digits that come with scikit-learn (UCI Optdigits), enlarged from 8 × 8",
        image_shape=GREY_28,
        num_classes=10,
        class_names=TEN_DIGITS,
        mean=(0.3058,),
        std=(0.3251,),
        augment="shift2",
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        exact=False,
        notes="nothing to fetch, it comes with scikit-learn; intensities 0 to 16 become 0 to 255, then"
        " Pillow's bilinear resize makes 28 × 28 out of 8 × 8",
        cut={"test": 400, "validation": 200},
    )
)
def digits(card: DatasetCard, root: Path | None) -> Dataset:
    """The source has no test part: 400 test and 200 validation images are cut by the fixed rule."""

    def train() -> Pixels:
        from PIL import Image
        from sklearn.datasets import load_digits

        source = load_digits()
        bytes_8x8 = np.rint(source.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
        enlarged = [Image.fromarray(digit).resize((28, 28), Image.Resampling.BILINEAR) for digit in bytes_8x8]
        return Pixels(np.stack([np.asarray(picture) for picture in enlarged])[:, None], source.target)

    return Dataset(card, {"train": train})


# ---- MNIST and Fashion-MNIST: four idx files -----------------------------------------------------------------------

MNIST_PACKED = {
    "train-images-idx3-ubyte": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_UNPACKED = {
    "train-images-idx3-ubyte": "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_PACKED = {
    "train-images-idx3-ubyte": "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
FASHION_UNPACKED = {
    "train-images-idx3-ubyte": "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def _mnist_addresses(file_name: str) -> list[str]:
    from torchvision.datasets import MNIST

    return [mirror + file_name for mirror in MNIST.mirrors]


def _fashion_addresses(file_name: str) -> list[str]:
    from torchvision.datasets import FashionMNIST

    return [mirror + file_name for mirror in FashionMNIST.mirrors]


@dataset(
    DatasetCard(
        name="mnist",
        description="60 000 + 10 000 handwritten digits (LeCun, Cortes, Burges 1998)",
        image_shape=GREY_28,
        num_classes=10,
        class_names=TEN_DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        augment="shift2",
        licence="CC BY-SA 3.0 as usually given",
        exact=True,
        cut={"validation": 5000},
        layouts=(
            spread("mnist", MNIST_PACKED, ".gz"),
            spread("MNIST/raw", MNIST_PACKED, ".gz"),
            spread("MNIST/raw", MNIST_UNPACKED),
        ),
        addresses=_mnist_addresses,
    )
)
@dataset(
    DatasetCard(
        name="fashion_mnist",
        description="60 000 + 10 000 pictures of clothes (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747)",
        image_shape=GREY_28,
        num_classes=10,
        class_names=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        mean=(0.2860,),
        std=(0.3530,),
        augment="shift4_flip",
        licence="MIT",
        exact=True,
        cut={"validation": 5000},
        layouts=(
            spread("fashion-mnist", FASHION_PACKED, ".gz"),
            spread("FashionMNIST/raw", FASHION_PACKED, ".gz"),
            spread("FashionMNIST/raw", FASHION_UNPACKED),
        ),
        addresses=_fashion_addresses,
    )
)
def idx_files(card: DatasetCard, root: Path | None) -> Dataset:
    """The official test part is the test split."""
    found = locate(card, root)
    return Dataset(card, {"train": lambda: _idx_part(found, "train"), "test": lambda: _idx_part(found, "t10k")})


def _idx_part(found: Found, prefix: str) -> Pixels:
    images, labels = (
        parse_idx(found.read(role), role) for role in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    )
    return Pixels(images[:, None], labels)


def parse_idx(data: bytes, name: str) -> Bytes:
    """The array in an idx file, packed with gzip or not.

    The format: two zero bytes, the type (8: unsigned byte), the number of axes, their lengths as big-endian 32-bit
    words, then the values.

    Raises:
        SetupError: the file is cut short or is something else.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise SetupError(f"{name}: damaged gzip file ({error})", "copy or fetch it again") from error
    axes = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * axes
    shape = np.frombuffer(data[4:start], ">u4") if axes and len(data) >= start else np.zeros(0, int)
    if len(shape) != axes or not axes or len(data) - start != np.prod(shape, dtype=np.int64):
        raise SetupError(
            f"{name} should be an idx file of bytes with {shape.tolist()} values, found {len(data)} bytes in all",
            "copy or fetch it again",
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


# ---- SVHN: two Matlab files ----------------------------------------------------------------------------------------

SVHN_FILES = {
    "train_32x32": "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32": "md5:eb5a983be6a315427106f1b164d9cef3",
}


def _svhn_addresses(file_name: str) -> list[str]:
    from torchvision.datasets import SVHN

    return [address for address, name, _ in SVHN.split_list.values() if name == file_name]


@dataset(
    DatasetCard(
        name="svhn",
        description="73 257 + 26 032 house numbers, cropped digits (Netzer et al. 2011)",
        image_shape=(3, 32, 32),
        num_classes=10,
        class_names=TEN_DIGITS,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        augment="shift4",
        licence="non-commercial use only",
        exact=True,
        notes="the authors' label 10 is class 0; the 531 131 extra images are not used",
        cut={"validation": 5000},
        layouts=(spread("svhn", SVHN_FILES, ".mat"), spread("", SVHN_FILES, ".mat")),
        addresses=_svhn_addresses,
    )
)
def svhn(card: DatasetCard, root: Path | None) -> Dataset:
    """The official test part is the test split."""
    found = locate(card, root)
    return Dataset(
        card,
        {
            "train": lambda: parse_svhn(found.read("train_32x32")),
            "test": lambda: parse_svhn(found.read("test_32x32")),
        },
    )


def parse_svhn(data: bytes) -> Pixels:
    """A Matlab file with X (32, 32, 3, N) and y (N, 1) from 1 to 10.

    Raises:
        Unsupported: SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise Unsupported("needs scipy") from error
    matrices = loadmat(io.BytesIO(data))
    images = np.ascontiguousarray(matrices["X"].transpose(3, 2, 0, 1))
    return Pixels(images, matrices["y"].reshape(-1) % 10)
