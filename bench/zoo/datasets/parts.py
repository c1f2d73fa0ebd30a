"""Images as they lie in memory or in files, decoded when they are asked for."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.contract import SetupError

if TYPE_CHECKING:
    from PIL import Image

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Reader = Callable[[str], bytes]  # name of a picture → the bytes of its file

CHUNK_IMAGES = 32  # one errand of a decoding thread
BROKEN_FILE = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError)  # RuntimeError: a zip with a password
BROKEN_PICTURE = (OSError, SyntaxError, ValueError)  # what Pillow raises on damaged files


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """A network's standard evaluation transform, as torchvision and timm define it, on decoded RGB pictures.

    crop_mode "center": the shorter side becomes floor(size / crop_pct), then the middle size × size is cut out;
    "squash": the whole picture becomes size × size (crop_pct plays no part). Field names are those of timm's
    ``resolve_data_config``.

    Args:
        size: height and width that come out, in pixels.
        crop_pct: share of the shorter side that is kept, in (0, 1].
        interpolation: "bilinear", "bicubic" or "nearest", Pillow's (antialiased when shrinking).
        crop_mode: "center" or "squash".
    """

    size: int = 224
    crop_pct: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    crop_mode: Literal["center", "squash"] = "center"

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.crop_pct <= 1:
            raise SetupError(f"size should be at least 1 and crop_pct in (0, 1], got {self.size} and {self.crop_pct}")
        if self.interpolation not in ("bilinear", "bicubic", "nearest") or self.crop_mode not in ("center", "squash"):
            raise SetupError(
                f"no transform with interpolation {self.interpolation!r} and crop_mode {self.crop_mode!r}",
                "interpolation is bilinear, bicubic or nearest; crop_mode is center or squash",
            )

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Any RGB picture → size × size."""
        from PIL import Image

        resample = Image.Resampling[self.interpolation.upper()]
        if self.crop_mode == "squash":
            return picture.resize((self.size, self.size), resample)
        short = int(self.size / self.crop_pct)
        width, height = picture.size
        scale = short / min(width, height)
        if width < height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
        if scale != 1:
            picture = picture.resize((width, height), resample)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return picture.crop((left, top, left + self.size, top + self.size))


class Part(Protocol):
    """Images that lie together, in a fixed order, with their labels."""

    labels: Numbers  # (N,) int64

    def images(self, places: Numbers, transform: EvalTransform | None) -> Bytes:
        """(n, C, H, W) uint8."""
        ...

    def digests(self, places: Numbers) -> list[bytes]:
        """sha256 of each image as it is stored, before any decoding."""
        ...


class Pixels:
    """Images in memory.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) any integers.
    """

    def __init__(self, images: Bytes, labels: NDArray[Any]) -> None:
        self._images, self.labels = images, labels.astype(np.int64)

    def images(self, places: Numbers, transform: EvalTransform | None) -> Bytes:
        """Copies of the images; they have one size, so a transform is refused."""
        if transform is not None:
            raise SetupError(
                f"these images are {self._images.shape[2]} × {self._images.shape[3]} pixels and take no transform"
            )
        return self._images[places]

    def digests(self, places: Numbers) -> list[bytes]:
        """sha256 of each image's pixels."""
        return [hashlib.sha256(self._images[place].tobytes()).digest() for place in places]


class Pictures:
    """Encoded pictures (JPEG, PNG, …), read and decoded in threads when asked for; always RGB.

    Args:
        names: of each picture, as the reader and error messages call it.
        labels: (N,) any integers.
        source: what the names belong to, for messages.
        reading: opens the source for a while; threads call the reader at the same time.
        shape: (C, H, W) of what comes out without a transform of the caller's.
        transform: what is done then; None asks for files of exactly ``shape``.
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: NDArray[Any],
        *,
        source: str,
        reading: Callable[[], AbstractContextManager[Reader]],
        shape: tuple[int, int, int],
        transform: EvalTransform | None = None,
    ) -> None:
        self.names, self.labels = names, labels.astype(np.int64)
        self._source, self._reading, self._shape, self._transform = source, reading, shape, transform

    def images(self, places: Numbers, transform: EvalTransform | None) -> Bytes:
        """Decoded, transformed, stacked."""
        transform = transform or self._transform
        _, height, width = (3, transform.size, transform.size) if transform else self._shape
        out = np.empty((len(places), height, width, 3), np.uint8)

        def fill(row: int, data: bytes, name: str) -> None:
            out[row] = self._decode(data, name, transform, (height, width))

        self._for_each(places, fill)
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2))

    def digests(self, places: Numbers) -> list[bytes]:
        """sha256 of each file's bytes."""
        out = [b""] * len(places)

        def fill(row: int, data: bytes, name: str) -> None:
            out[row] = hashlib.sha256(data).digest()

        self._for_each(places, fill)
        return out

    def _for_each(self, places: Numbers, use: Callable[[int, bytes, str], None]) -> None:
        """Call ``use(row, bytes, name)`` for each place, in as many threads as torch may use."""
        import torch

        def errand(first: int) -> None:
            for row in range(first, min(first + CHUNK_IMAGES, len(places))):
                name = self.names[places[row]]
                try:
                    data = read(name)
                except BROKEN_FILE as error:
                    raise self._damaged(name, error) from error
                use(row, data, name)

        with self._reading() as read, ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for _ in pool.map(errand, range(0, len(places), CHUNK_IMAGES)):
                pass  # an exception of an errand is raised here

    def _decode(self, data: bytes, name: str, transform: EvalTransform | None, size: tuple[int, int]) -> Bytes:
        from PIL import Image

        try:
            picture = Image.open(io.BytesIO(data)).convert("RGB")
        except (*BROKEN_PICTURE, Image.DecompressionBombError) as error:
            raise self._damaged(name, error) from error
        pixels = np.asarray(transform(picture) if transform else picture)
        if pixels.shape[:2] != size:
            raise SetupError(f"{self._source}: {name} should be {size[0]} × {size[1]}, is {pixels.shape[:2]}")
        return pixels

    def _damaged(self, name: str, error: Exception) -> SetupError:
        return SetupError(
            f"{self._source}: {name} cannot be read as a picture ({type(error).__name__}: {error})",
            "replace the file, or take it out",
        )


# ---- folders and zips of pictures ----------------------------------------------------------------------------------

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def list_pictures(source: Path) -> list[str]:
    """Sorted names (below ``source``, with forward slashes) of the pictures in a folder or zip; hidden ones left out.

    Raises:
        SetupError: ``source`` is neither a folder nor a readable zip, or holds no picture.
    """
    if source.is_dir():
        found = [
            (Path(folder) / name).relative_to(source).as_posix()
            for folder, _, names in os.walk(source, followlinks=True)
            for name in names
            if name.lower().endswith(SUFFIXES)
        ]
    else:
        with _open_zip(source) as archive:
            found = [name for name in archive.namelist() if name.lower().endswith(SUFFIXES)]
    shown = [name for name in found if not any(step.startswith((".", "__MACOSX")) for step in name.split("/"))]
    if not shown:
        raise SetupError(f"{source} holds no pictures", f"known file types: {', '.join(SUFFIXES)}")
    return sorted(shown)


@contextmanager
def reading(source: Path) -> Iterator[Reader]:
    """A reader of the pictures in a folder or zip. A zip is open no longer than the ``with`` block."""
    if source.is_dir():
        yield lambda name: (source / name).read_bytes()
    else:
        with _open_zip(source) as archive:
            yield archive.read


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise SetupError(f"{path} does not exist", "give a folder or a zip of pictures") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise SetupError(f"{path} is neither a folder nor a readable zip ({error})", "copy it again") from error
