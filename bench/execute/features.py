"""Features of whole sets of images: one pass of a network over a set gives what all metrics need of it."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.record.files import write_atomic

SETS_KEPT = 12  # in memory
BATCH = 256  # images in one forward pass; not a condition, since no value depends on it

Features = Mapping[str, Tensor]  # "logits" (N, K) where the network has them, "penultimate" (N, D)


def set_digest(*parts: object) -> str:
    """sha256 that names a set of images: of a tensor's bytes, or of what the set was chosen by."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{tuple(part.shape)}{part.dtype}".encode())
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(f"|{part}".encode())
    return digest.hexdigest()


class FeatureCache:
    """What networks showed on sets of images, by (set digest, network digest).

    The last few sets stay in memory. Those of real images are also kept in files, for other cells and other runs; a
    file that cannot be read is made anew.

    Args:
        folder: where the files lie.
        device: where the tensors are wanted; features differ in their last digits from device to device.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self._kept: OrderedDict[str, Features] = OrderedDict()

    def get(self, images: str, network: str, compute: Callable[[], Features], *, lasting: bool) -> Features:
        """The features of a set, from memory, from its file, or from ``compute``.

        Args:
            images, network: their digests.
            lasting: keep a file.
        """
        key = hashlib.sha256(f"{images}|{network}|{self.device.type}".encode()).hexdigest()[:16]
        if key not in self._kept:
            path = self.folder / f"{key}.safetensors"
            found = self._read(path) if lasting else None
            if found is None:
                found = compute()
                if lasting:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    write_atomic(path, save({name: part.cpu().contiguous() for name, part in found.items()}))
            self._kept[key] = found
            while len(self._kept) > SETS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _read(self, path: Path) -> Features | None:
        try:
            stored = load(path.read_bytes())
        except (OSError, SafetensorError):
            return None
        return {name: part.to(self.device) for name, part in stored.items()}
