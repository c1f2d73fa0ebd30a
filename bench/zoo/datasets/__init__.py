"""The real images: which data sets there are, how they are opened, how they are fetched.

Loading this package loads neither torch nor Pillow, so that names are listed and checked at once.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from bench.contract import SetupError
from bench.zoo.datasets import cifar, folders, small  # noqa: F401 - importing them registers their data sets
from bench.zoo.datasets.card import DataFile, DatasetCard, dataset_card, dataset_names, registered
from bench.zoo.datasets.dataset import Dataset, balanced_order
from bench.zoo.datasets.fetch import fetch
from bench.zoo.datasets.files import data_root
from bench.zoo.datasets.files import explain as _explain
from bench.zoo.datasets.parts import EvalTransform

__all__ = [
    "DataFile",
    "Dataset",
    "DatasetCard",
    "EvalTransform",
    "balanced_order",
    "dataset_card",
    "dataset_names",
    "explain",
    "fetch",
    "open_dataset",
]


def open_dataset(
    name: str,
    root: Path | None = None,
    *,
    folder: Path | None = None,
    size: int | None = None,
    file_list: Path | None = None,
) -> Dataset:
    """Open a data set; files are looked for now and read when they are needed.

    Args:
        name: see ``dataset_names``.
        root: the data root; None reads GLASSBENCH_DATA. Embedded sets need none.
        folder: ``imagenet`` and ``imagefolder``: the folder or zip of pictures.
        size: ``imagefolder``: height and width of its images, in pixels.
        file_list: ``imagenet``: CSV with the columns ``path`` (below the folder) and ``label`` (0 to 999).

    Raises:
        SetupError: no such data set, an option it does not take, or files that are missing: names the files expected,
            where, with which checksum. A damaged file is found when it is read.
    """
    entry = registered(name)
    given = {"folder": folder, "size": size, "file_list": file_list}
    options: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    taken = [p.name for p in inspect.signature(entry.load).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in taken:
            raise SetupError(f"{name} takes no option {option!r}", f"it takes: {', '.join(taken) or 'none'}")
    return entry.load(entry.card, root, **options)


def explain(name: str, root: Path | None = None) -> str:
    """Which files ``name`` is read from, where, with which checksums, and which of them are there."""
    return _explain(dataset_card(name), data_root(root))
