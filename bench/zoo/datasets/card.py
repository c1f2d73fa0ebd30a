"""What is known of a data set before a file is opened, and the one registry of data sets."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contract import SetupError

if TYPE_CHECKING:
    from bench.zoo.datasets.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file that a data set is read from.

    Args:
        path: below the data root, with forward slashes.
        checksum: "sha256:HEX" or "md5:HEX" of its bytes; empty where none is published (the reader then checks what
            it holds).
    """

    path: str
    checksum: str = ""


Layout = Mapping[str, DataFile]  # role → file: everything that one way of storing a data set consists of


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What a data set says of itself.

    Args:
        image_shape: (C, H, W) of the images it gives.
        class_names: name of class k at place k; None where no short list exists.
        mean, std: per channel, in intensities, for networks trained on it.
        augment: a name in ``bench.ops.AUGMENTATIONS``.
        exact: the pixels are those the authors published; ``notes`` says what was changed where they are not.
        cut: split → how many images it takes out of the files' training part, by the fixed rule of ``Dataset``.
        layouts: the ways its files may lie below the data root, any complete one will do; ``fetch`` makes the first.
        addresses: file name → where it can be downloaded; None where nothing public serves it.
    """

    name: str
    description: str
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    licence: str
    exact: bool
    notes: str = ""
    cut: Mapping[str, int] = field(default_factory=dict)
    layouts: tuple[Layout, ...] = ()
    addresses: Callable[[str], list[str]] | None = None

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files of the first layout."""
        return tuple(self.layouts[0].values()) if self.layouts else ()


@dataclass(frozen=True)
class Registered:
    """A card and the function that opens its data set: (card, data root or None, **options) → Dataset."""

    card: DatasetCard
    load: Callable[..., Dataset]


_REGISTRY: dict[str, Registered] = {}


def dataset(card: DatasetCard) -> Callable[[Callable[..., Dataset]], Callable[..., Dataset]]:
    """Register the decorated function as the loader of the card's data set; its keyword-only arguments are options."""

    def register(load: Callable[..., Dataset]) -> Callable[..., Dataset]:
        _REGISTRY[card.name] = Registered(card, load)
        return load

    return register


def dataset_names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_REGISTRY)


def dataset_card(name: str) -> DatasetCard:
    """The card of ``name``.

    Raises:
        SetupError: no such data set; the nearest name is offered.
    """
    return registered(name).card


def registered(name: str) -> Registered:
    """Card and loader of ``name``; raises as ``dataset_card`` does."""
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        guess = f". Did you mean {near[0]!r}?" if near else ""
        raise SetupError(f"no data set named {name!r}{guess}", f"there are: {', '.join(dataset_names())}")
    return _REGISTRY[name]


def spread(folder: str, checksums: Mapping[str, str], suffix: str = "") -> Layout:
    """A layout of files in one folder; each role is the file's name without ``suffix``."""
    head = Path(folder)
    return {
        role: DataFile(path=(head / f"{role}{suffix}").as_posix(), checksum=checksum)
        for role, checksum in checksums.items()
    }
