"""Downloading a data set's files: whole, with the right checksum, or not at all."""

import hashlib
import os
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.contract import SetupError
from bench.zoo.datasets.card import DataFile, DatasetCard, registered
from bench.zoo.datasets.files import Found, data_root, explain

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0


def fetch(name: str, root: Path | None = None, progress: bool = True, *, mirror: str | None = None) -> list[Path]:
    """Bring the files of ``name`` below the data root; files that are there and right are left alone.

    Args:
        root: the data root, made when it does not exist; None reads GLASSBENCH_DATA.
        progress: show a bar with bytes and time left.
        mirror: address (http, https or file) of a folder laid out like a data root, asked before the public
            addresses. Checksums hold for it as well.

    Returns:
        Paths of all files of the data set.

    Raises:
        SetupError: no address works, or what came has another checksum; nothing half-written is left behind.
    """
    card = registered(name).card
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    root = data_root(root)
    if not card.layouts:
        raise SetupError(f"{name} has nothing to download", card.notes or "it comes with an installed library")
    if root is None or (card.addresses is None and mirror is None):
        raise SetupError(f"{name} cannot be downloaded" if root else "fetch needs a data root", explain(card, root))
    found = Found(card, root, card.layouts[0])
    for role, file in card.layouts[0].items():
        if not _is_right(found, role):
            try:
                download(file, root, _addresses(card, file, mirror), progress)
            except SetupError as error:
                raise SetupError(f"{name}: {error}", explain(card, root)) from error
    return [found.path(role) for role in card.layouts[0]]


def _is_right(found: Found, role: str) -> bool:
    try:
        found.path(role)
    except (OSError, SetupError):
        return False
    return True


def _addresses(card: DatasetCard, file: DataFile, mirror: str | None) -> list[str]:
    own = [f"{mirror.rstrip('/')}/{quote(file.path)}"] if mirror else []
    return own + (card.addresses(Path(file.path).name) if card.addresses else [])


def download(file: DataFile, root: Path, addresses: list[str], progress: bool = True) -> None:
    """Try the addresses in turn until one gives the right bytes; the file is there whole or not at all.

    Raises:
        SetupError: none did, with what each of them gave; or the folder cannot be written.
    """
    target, failures = root / file.path, []
    for address in addresses:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        except OSError as error:
            raise SetupError(f"cannot write to {target.parent}: {error}", "choose another --data DIR") from error
        try:
            with os.fdopen(handle, "wb") as stream:
                found = _stream(address, stream, file, progress)
            if found.startswith(file.checksum):  # of some files only the first digits are published
                Path(part).chmod(0o644)  # mkstemp makes it private; data roots are shared
                Path(part).replace(target)
                return
            failures.append(f"{address}: should be {file.checksum}, came as {found}")
        except (OSError, HTTPException, ValueError) as error:  # ValueError: an address without a scheme
            failures.append(f"{address}: {error}")
        finally:
            Path(part).unlink(missing_ok=True)
    raise SetupError(f"{file.path} could not be downloaded ({'; '.join(failures)})")


def _stream(address: str, stream: Any, file: DataFile, progress: bool) -> str:
    """Copy the address into ``stream``; returns "algorithm:HEX" of what came."""
    from urllib.request import Request, urlopen  # slow to load (TLS), and names are listed without it

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    algorithm = file.checksum.split(":")[0]
    digest = hashlib.new(algorithm)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        urlopen(Request(address, headers={"User-Agent": "glassbench"}), timeout=TIMEOUT_SECONDS) as response,
        Progress(*columns, disable=not progress) as bar,
    ):
        length = response.headers.get("Content-Length")
        task = bar.add_task(file.path, total=int(length) if length else None)
        while chunk := response.read(CHUNK_BYTES):
            stream.write(chunk)
            digest.update(chunk)
            bar.advance(task, len(chunk))
    return f"{algorithm}:{digest.hexdigest()}"
