"""Pictures in folders and zips: ImageNet, sets with ImageNet's labels, and the user's own."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.contract import SetupError
from bench.zoo.datasets.card import DataFile, DatasetCard, dataset
from bench.zoo.datasets.dataset import Dataset
from bench.zoo.datasets.files import data_root, locate
from bench.zoo.datasets.parts import EvalTransform, Pictures, list_pictures, reading

IMAGENET_VARIABLE = "GLASSBENCH_IMAGENET"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE_224 = (3, 224, 224)
WHOLE_PICTURE = EvalTransform(size=224, crop_pct=1.0, crop_mode="squash")
SPLIT_OF_FOLDER = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
TEXTURES = (
    "banded",
    "blotchy",
    "braided",
    "bubbly",
    "bumpy",
    "chequered",
    "cobwebbed",
    "cracked",
    "crosshatched",
    "crystalline",
)
LARGEST_VALIDATION = 10_000  # 10 % of the training part, but never more


# ---- those with files of their own ---------------------------------------------------------------------------------


@dataset(
    DatasetCard(
        name="imagenette",
        description="1 000 + 1 500 ImageNet pictures of ten easily told classes (Imagenette, Howard 2019)",
        image_shape=SHAPE_224,
        num_classes=1000,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augment="none",
        licence="ImageNet terms",
        exact=False,
        notes="224 × 224 JPEG quality 75; labels are ImageNet indices; both parts mix ImageNet's training and"
        " validation images",
        layouts=(
            {
                "train": DataFile(
                    path="imagenet/imagenette224_train100.zip",
                    checksum="sha256:5eca0c0e5bf45afc870f4a071019a81fe3031638e8718a33affc11b789dc9f65",
                ),
                "test": DataFile(
                    path="imagenet/imagenette224_val150.zip",
                    checksum="sha256:ad8623a771ccffc4fee4c2f3370bd5945acf472431462fd21a65fb391fb9facd",
                ),
            },
        ),
    )
)
def imagenette(card: DatasetCard, root: Path | None) -> Dataset:
    """Imagenette's validation part (150 of each class) is the test split; there is no validation split."""
    found = locate(card, root)
    indices = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # ImageNet index of each wnid folder in sorted order

    def part(split: str) -> Pictures:
        names = list_pictures(found.path(split))
        _, labels = np.unique([name.split("/")[0] for name in names], return_inverse=True)
        return _pictures(found.path(split), names, np.array(indices)[labels])

    return Dataset(card, {"train": lambda: part("train"), "test": lambda: part("test")})


@dataset(
    DatasetCard(
        name="nips17",
        description="the 1 000 development images of the NIPS 2017 adversarial competition, ImageNet labels",
        image_shape=SHAPE_224,
        num_classes=1000,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augment="none",
        licence="CC BY, author and licence of each image in its csv",
        exact=False,
        notes="299 × 299, re-encoded as JPEG quality 90, Pillow's bilinear resize to 224 without a crop; not ImageNet"
        " images",
        layouts=(
            {
                "images": DataFile(
                    path="imagenet/nips17_dev_299_q90.zip",
                    checksum="sha256:5d76160e11ee8c174c245c8d84a10519cb9b32026e5d96f5c1567cf6490807cc",
                ),
                "labels": DataFile(
                    path="imagenet/nips17_dev_dataset.csv",
                    checksum="sha256:3aa0a23f075efc85f8893de78ba89b3c2bc54e1622a3541d0f203ac691d257fd",
                ),
            },
        ),
    )
)
def nips17(card: DatasetCard, root: Path | None) -> Dataset:
    """Test images only. The csv counts classes from 1."""
    found = locate(card, root)

    def test() -> Pictures:
        rows = csv.DictReader(io.StringIO(found.read("labels").decode("utf-8"), newline=""))
        label_of = {row["ImageId"]: int(row["TrueLabel"]) - 1 for row in rows}
        names = list_pictures(found.path("images"))
        return _pictures(found.path("images"), names, np.array([label_of[Path(name).stem] for name in names]))

    return Dataset(card, {"test": test})


@dataset(
    DatasetCard(
        name="textures",
        description="200 pictures of ten textures, of Describable Textures (Cimpoi et al. 2014, arXiv:1311.3618)",
        image_shape=SHAPE_224,
        num_classes=10,
        class_names=TEXTURES,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augment="none",
        licence="research use",
        exact=False,
        notes="20 of each of the first ten of 47 textures, re-encoded as JPEG quality 90, shorter side at most 256;"
        " brought to 256, then the middle 224 × 224. The whole set is its authors'",
        layouts=(
            {
                "images": DataFile(
                    path="textures/dtd10x20_short256_q90.zip",
                    checksum="sha256:96c152eb7317ba282a5752cdc00f914b3b275e1630dcba2b4250d1311597e822",
                ),
            },
        ),
    )
)
def textures(card: DatasetCard, root: Path | None) -> Dataset:
    """Test images only: concepts to look for in networks trained on something else."""
    found = locate(card, root)

    def test() -> Pictures:
        names = list_pictures(found.path("images"))
        labels = np.array([_texture(name, found.path("images")) for name in names])
        return _pictures(found.path("images"), names, labels, EvalTransform())

    return Dataset(card, {"test": test})


def _texture(name: str, source: Path) -> int:
    folder = name.split("/")[0]
    if folder not in TEXTURES:
        raise SetupError(f"{source}: {folder!r} is not one of the textures", f"there are: {', '.join(TEXTURES)}")
    return TEXTURES.index(folder)


def _pictures(
    source: Path, names: Sequence[str], labels: NDArray[Any], transform: EvalTransform = WHOLE_PICTURE
) -> Pictures:
    shape = (3, transform.size, transform.size)
    return Pictures(
        names, labels, source=str(source), reading=lambda: reading(source), shape=shape, transform=transform
    )


# ---- ImageNet ------------------------------------------------------------------------------------------------------


@dataset(
    DatasetCard(
        name="imagenet",
        description="ImageNet-1k (Russakovsky et al. 2015, arXiv:1409.0575), or any pictures with its labels",
        image_shape=SHAPE_224,
        num_classes=1000,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augment="none",
        licence="ImageNet terms, non-commercial research",
        exact=True,
        notes=f"a folder or zip of pictures in folders named by wnid (n01440764, …), with or without train/ and val/"
        f" above them; point --data or {IMAGENET_VARIABLE} at it. A file list (CSV: path,label) may name the pictures"
        f" and class indices instead. It cannot be downloaded without an account",
    )
)
def imagenet(
    card: DatasetCard, root: Path | None, *, folder: Path | None = None, file_list: Path | None = None
) -> Dataset:
    """ImageNet's validation part is the test split (its own test labels are secret).

    Without train/ and val/ folders every picture belongs to the test split. Up to 10 000 validation images are cut
    out of train/. Class indices come from class_index.csv (columns index, wnid) beside or above the folder or in the
    data root's imagenet/, else from timm's list; the file list has its own.
    """
    root = data_root(root)
    source = _imagenet_source(card, root, folder)
    if file_list is None:
        tree = arrange(list_pictures(source))
        index_of = _wnid_indices(source, root)
        label_of = {name: _index(index_of, wnid, source) for part in tree.values() for name, wnid in part.items()}
    else:
        label_of = read_file_list(file_list, source, card.num_classes)
        tree = arrange(sorted(label_of))
    if "" in tree:
        tree = {"test": tree[""]}
    elif "test" not in tree and "validation" in tree:
        tree["test"] = tree.pop("validation")
    return _from_tree(card, source, tree, label_of, EvalTransform())


def _imagenet_source(card: DatasetCard, root: Path | None, folder: Path | None) -> Path:
    named = os.environ.get(IMAGENET_VARIABLE)
    if folder is not None or named:
        return (folder or Path(str(named))).expanduser()
    for place in (root, root / "imagenet") if root else ():
        if place.is_file() or (place / "train").is_dir() or (place / "val").is_dir():
            return place
    raise SetupError(
        f"imagenet: no folder is given, and {root or 'no data root'} has no train/, val/ or imagenet/val/", card.notes
    )


def _wnid_indices(source: Path, root: Path | None) -> dict[str, int]:
    """Class index of each wnid, from class_index.csv where there is one, else from timm."""
    places = [source, source.parent, *([root, root / "imagenet"] if root else [])]
    for path in (place / "class_index.csv" for place in places):
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                return {row["wnid"]: int(row["index"]) for row in csv.DictReader(stream)}
    from timm.data import ImageNetInfo  # type: ignore[attr-defined]

    wnids = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
    return {wnid: index for index, wnid in enumerate(wnids)}


def _index(index_of: dict[str, int], wnid: str, source: Path) -> int:
    if wnid not in index_of:
        raise SetupError(
            f"{source}: folder {wnid!r} is not the wnid of an ImageNet class",
            "give a file list with class indices, or open your own classes as 'imagefolder'",
        )
    return index_of[wnid]


def read_file_list(file_list: Path, source: Path, num_classes: int) -> dict[str, int]:
    """Picture → class index, from a CSV with the columns ``path`` (below the source) and ``label`` (0 to K − 1).

    Raises:
        SetupError: the list cannot be read, a label is out of range, or a picture is not in the source.
    """
    hint = f"write a header line path,label and class indices from 0 to {num_classes - 1}"
    label_of: dict[str, int] = {}
    try:
        with file_list.open(newline="", encoding="utf-8-sig") as stream:
            for row in csv.DictReader(stream):
                label_of[row["path"]] = int(row["label"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SetupError(f"{file_list} is not a file list ({type(error).__name__}: {error})", hint) from error
    for path, label in label_of.items():
        if not 0 <= label < num_classes:
            raise SetupError(f"{file_list}: {path} has label {label}, expected 0 to {num_classes - 1}", hint)
    absent = sorted(label_of.keys() - set(list_pictures(source)))
    if absent or not label_of:
        raise SetupError(
            f"{file_list}: {len(absent)} of {len(label_of)} pictures are not in {source} {absent[:1]}",
            "paths start below the folder, with forward slashes",
        )
    return label_of


# ---- the user's own ------------------------------------------------------------------------------------------------


@dataset(
    DatasetCard(
        name="imagefolder",
        description="your own pictures, one folder a class",
        image_shape=(3, 64, 64),
        num_classes=0,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augment="shift4_flip",
        licence="yours",
        exact=True,
        notes="give a folder or zip with one folder of pictures for each class, with or without train/, val/ and test/"
        " above them",
    )
)
def imagefolder(card: DatasetCard, root: Path | None, *, folder: Path | None = None, size: int = 64) -> Dataset:
    """Class k is the k-th of the sorted class folders; the card that comes back has their names and number.

    Pictures become RGB; the shorter side is brought to ``size`` by Pillow's bilinear resize and the middle square is
    cut out. Splits that have no folder are cut by the fixed rule: test 20 % of all pictures where there is neither
    test/ nor val/ (val/ is the test split where there is no test/), validation 10 % of what lies in train/ (or of
    all pictures), at most 10 000.
    """
    if folder is None:
        raise SetupError("imagefolder needs a folder", card.notes)
    source = folder.expanduser()
    tree = arrange(list_pictures(source))
    classes = sorted({name for part in tree.values() for name in part.values()})
    if "" in classes or len(classes) < 2:
        raise SetupError(
            f"{source} should have 2 or more class folders with all pictures in them, found {classes}", card.notes
        )
    if "" in tree:
        tree = {"train": tree[""]}
    elif "test" not in tree and "validation" in tree:
        tree["test"] = tree.pop("validation")
    label_of = {name: classes.index(of) for part in tree.values() for name, of in part.items()}
    card = dataclasses.replace(card, image_shape=(3, size, size), num_classes=len(classes), class_names=tuple(classes))
    return _from_tree(card, source, tree, label_of, EvalTransform(size=size, crop_pct=1.0))


def arrange(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Split → picture → class folder ("" where it lies in none); the split is "" when there are no split folders.

    A folder that wraps everything else is passed over, as zips often have one.
    """
    steps = {name: name.split("/") for name in names}
    heads = {path[0] for path in steps.values()}
    while len(heads) == 1 and not heads <= SPLIT_OF_FOLDER.keys() and all(len(path) > 2 for path in steps.values()):
        steps = {name: path[1:] for name, path in steps.items()}
        heads = {path[0] for path in steps.values()}
    tree: dict[str, dict[str, str]] = {}
    has_splits = heads <= SPLIT_OF_FOLDER.keys()
    for name, path in steps.items():
        split, path = (SPLIT_OF_FOLDER[path[0]], path[1:]) if has_splits else ("", path)
        tree.setdefault(split, {})[name] = path[0] if len(path) > 1 else ""
    return tree


def _from_tree(
    card: DatasetCard,
    source: Path,
    tree: dict[str, dict[str, str]],
    label_of: dict[str, int],
    transform: EvalTransform,
) -> Dataset:
    """Splits that the tree lacks are cut out of its training part."""
    cut = {}
    if "train" in tree:
        count = len(tree["train"])
        if "test" not in tree:
            cut["test"] = count // 5
        if "validation" not in tree:
            cut["validation"] = min(count // 10, LARGEST_VALIDATION)

    def part(names: list[str]) -> Pictures:
        return _pictures(source, names, np.array([label_of[name] for name in names]), transform)

    parts = {split: partial(part, list(names)) for split, names in tree.items()}
    return Dataset(dataclasses.replace(card, cut=cut), parts)
