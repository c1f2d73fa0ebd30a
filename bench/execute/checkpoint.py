"""A nested training state as one safetensors file: tensors as they are, everything else as JSON beside them."""

import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class FileCheckpoint:
    """Keeps an unfinished training run in one file, which is replaced whole or not at all.

    Args:
        path: the file; its folder must exist.

    Attributes:
        seconds_before: how long earlier sittings had worked on the run when they last saved it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.seconds_before, self._started = path, 0.0, time.perf_counter()

    def load(self) -> dict[str, Any] | None:
        """The last state, tensors on the CPU; None when there is none or it cannot be read."""
        if not self.path.exists():
            return None
        try:
            with safe_open(str(self.path), framework="pt", device="cpu") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                written = file.metadata()
                skeleton, checksum, seconds = written["skeleton"], written["checksum"], float(written["seconds"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            skeleton, tensors, checksum, seconds = "", {}, "", 0.0
        if checksum != _checksum(skeleton, tensors):
            self.path.unlink(missing_ok=True)  # damaged: training starts anew
            return None
        loaded = _unpack(json.loads(skeleton), tensors)
        assert isinstance(loaded, dict)
        self.seconds_before = seconds
        return loaded

    def save(self, state: Mapping[str, Any]) -> None:
        """Write ``state`` beside the old one, then take its place."""
        tensors: dict[str, Tensor] = {}
        skeleton = json.dumps(_pack(state, tensors))
        beside = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            seconds = str(self.seconds_before + time.perf_counter() - self._started)
            written = {"skeleton": skeleton, "checksum": _checksum(skeleton, tensors), "seconds": seconds}
            save_file(tensors, str(beside), metadata=written)
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the run: it is finished."""
        self.path.unlink(missing_ok=True)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON form of ``value``; its tensors go to ``tensors`` under numbered names."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):  # pairs, since optimizer states have whole numbers as keys
        return {"pairs": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors, numbers and text, not {type(value).__name__}")


def _checksum(skeleton: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over everything: safetensors itself does not notice a flipped byte."""
    value = zlib.crc32(skeleton.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(item, tensors) for item in packed]
    if isinstance(packed, dict):
        if "tensor" in packed:
            return tensors[packed["tensor"]]
        return {key: _unpack(item, tensors) for key, item in packed["pairs"]}
    return packed
