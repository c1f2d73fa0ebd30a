"""An opened data set: fixed splits, fixed subsets, digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench.contract import SetupError
from bench.zoo.datasets.card import DatasetCard
from bench.zoo.datasets.parts import EvalTransform, Numbers, Part

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "validation", "test")


class Dataset:
    """Real images in three fixed splits: "train", "validation", "test".

    The files' own test part stays the test split. What ``card.cut`` names is taken out of the files' training part:
    of ``balanced_order(labels, "NAME|cut")`` the first images are the first split of ``card.cut``, the next the
    second, and what is left is "train"; within a split the images stay in the files' order.

    Args:
        card: what is known of it.
        parts: name of a part of the files → how to read it; a part is read when it is first needed.
    """

    def __init__(self, card: DatasetCard, parts: Mapping[str, Callable[[], Part]]) -> None:
        self.card = card
        self._parts = parts
        self._read: dict[str, Part] = {}
        self._cuts: dict[str, tuple[Part, Numbers]] = {}
        self._digests: dict[tuple[str, bytes], str] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it has."""
        return tuple(split for split in SPLITS if split in self._parts or split in self.card.cut)

    def labels(self, split: str) -> Tensor:
        """(N,) int64 class indices in [0, K)."""
        import torch

        part, rows = self._cut(split)
        return torch.from_numpy(part.labels[rows])

    def images(self, split: str, places: Tensor | None = None, transform: EvalTransform | None = None) -> Tensor:
        """(N, C, H, W) uint8 images on the CPU.

        Args:
            places: (N,) int64 places in the split, in the order wanted; None means all of them.
            transform: for data sets of pictures, instead of their own; sets of fixed size refuse one.
        """
        import torch

        part, rows = self._chosen(split, places)
        return torch.from_numpy(part.images(rows, transform))

    def digest(self, split: str, places: Tensor | None = None) -> str:
        """sha256 over label and stored bytes of each image, in order: what a cell's key knows of its data.

        Stored bytes are the encoded file for pictures and the pixels for everything else, so that two machines with
        the same files agree without decoding them. Give the places that are used: a large folder is read for it.
        """
        part, rows = self._chosen(split, places)
        key = (split, b"" if places is None else rows.tobytes())
        if key not in self._digests:
            total = hashlib.sha256(part.labels[rows].astype("<i8").tobytes())
            for digest in part.digests(rows):
                total.update(digest)
            self._digests[key] = total.hexdigest()
        return self._digests[key]

    def select(self, split: str, count: int) -> Tensor:
        """(count,) int64 places of a fixed subset, balanced over the classes; a smaller one begins a larger one.

        Raises:
            SetupError: the split has fewer than ``count`` images, or ``count`` is not positive.
        """
        import torch

        part, rows = self._cut(split)
        if not 0 < count <= len(rows):
            raise SetupError(
                f"{self.card.name} {split} has {len(rows)} images, {count} were asked for",
                f"ask for 1 to {len(rows)}",
            )
        order = balanced_order(part.labels[rows], f"{self.card.name}|{split}|select")
        return torch.from_numpy(order[:count])

    def _chosen(self, split: str, places: Tensor | None) -> tuple[Part, Numbers]:
        part, rows = self._cut(split)
        if places is None:
            return part, rows
        wanted = places.cpu().numpy()
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(rows)):
            raise SetupError(
                f"places in {self.card.name} {split} should be 0 to {len(rows) - 1},"
                f" got {wanted.min()} to {wanted.max()}"
            )
        return part, rows[wanted]

    def _cut(self, split: str) -> tuple[Part, Numbers]:
        """The part that holds the split, and the split's rows in it."""
        if split not in self.splits:
            raise SetupError(f"{self.card.name} has no split {split!r}", f"it has: {', '.join(self.splits)}")
        if split not in self._cuts:
            if split in self._parts and not (split == "train" and self.card.cut):
                part = self._part(split)
                self._cuts[split] = part, np.arange(len(part.labels))
            else:
                self._cut_training_part()
        return self._cuts[split]

    def _cut_training_part(self) -> None:
        part = self._part("train")
        order = balanced_order(part.labels, f"{self.card.name}|cut")
        for split, count in self.card.cut.items():
            self._cuts[split] = part, np.sort(order[:count])
            order = order[count:]
        self._cuts["train"] = part, np.sort(order)

    def _part(self, name: str) -> Part:
        if name not in self._read:
            self._read[name] = self._parts[name]()
        return self._read[name]


def balanced_order(labels: Numbers, salt: str) -> Numbers:
    """All places in a fixed pseudo-random order in which each run from the start is as balanced as it can be.

    Round r holds the r-th image of every class that has so many; classes and images within them are in the order of
    keys, the big-endian 64-bit words of SHAKE-256 of ``salt``. Nothing else enters: no generator, no library version.

    Args:
        labels: (N,) class indices.

    Returns:
        (N,) int64, each place once.
    """
    keys = np.frombuffer(hashlib.shake_256(salt.encode()).digest(8 * len(labels)), ">u8")
    by_class = np.lexsort((keys, labels))
    ordered = labels[by_class]
    rounds = np.empty(len(labels), np.int64)
    rounds[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return np.lexsort((keys, rounds)).astype(np.int64)
