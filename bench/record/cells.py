"""The folder of one cell: its record with a digest of itself, and its values."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from bench.record.files import digest_of
from bench.record.models import SCHEMA, DamagedRecord, Record, StoreError

RECORD, VALUES = "record.json", "values.safetensors"

_SEAL = '"record.json": "{}"'  # the record's digest of itself, taken with zeros in its place
_UNSEALED = _SEAL.format("0" * 64).encode()


def sealed(record: Record) -> tuple[Record, bytes]:
    """The record with its own digest, and its JSON: a number changed by hand does not go unseen."""
    unsealed = record.model_copy(update={"digests": record.digests | {RECORD: "0" * 64}})
    data = unsealed.model_dump_json(indent=1, by_alias=True).encode()
    digest = hashlib.sha256(data).hexdigest()
    sealed = record.model_copy(update={"digests": record.digests | {RECORD: digest}})
    return sealed, data.replace(_UNSEALED, _SEAL.format(digest).encode(), 1)


def read_record(folder: Path, key: str, *, artifacts: bool) -> Record:
    """The record in ``folder``; see ``Store.read``."""
    try:
        data = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        raise KeyError(key) from None
    except OSError as error:
        raise DamagedRecord(f"{RECORD} cannot be read: {error.strerror}") from error
    try:
        record = Record.model_validate_json(data)
    except ValidationError as error:
        raise DamagedRecord(f"{RECORD} is not a record: {first_line(error)}") from error
    if record.schema_number > SCHEMA:
        raise StoreError(
            f"record {key} has schema {record.schema_number}, this version reads up to {SCHEMA}", "update glassbench"
        )
    if record.key != key:
        raise DamagedRecord(f"{RECORD} belongs to cell {record.key}")
    seal = _SEAL.format(record.digests.get(RECORD)).encode()
    if hashlib.sha256(data.replace(seal, _UNSEALED, 1)).hexdigest() != record.digests.get(RECORD):
        raise DamagedRecord(f"{RECORD} does not have its own digest: it was changed after it was written")
    for name, digest in record.digests.items():
        if name == VALUES or (artifacts and name != RECORD):
            _check_digest(folder / name, digest)
    return record


def _check_digest(path: Path, digest: str) -> None:
    try:
        if digest_of(path) != digest:
            raise DamagedRecord(f"{path.name} does not have the digest in its record")
    except OSError as error:
        raise DamagedRecord(f"{path.name} cannot be read: {error.strerror}") from error


def check_values(record: Record, values: Mapping[str, np.ndarray]) -> None:
    """Raise ``ValueError`` unless every array is (n,) float64 and every one that a reading names is there."""
    for name, array in values.items():
        if array.ndim != 1 or array.dtype != np.float64:
            raise ValueError(f"values {name!r} should be (n,) float64, got {array.shape} {array.dtype}")
    for reading in record.readings:
        for wanted in (reading.values, reading.replicates):
            if wanted is not None and wanted not in values:
                raise ValueError(f"reading {reading.metric} names values {wanted!r}, which are not given")


def read_values(folder: Path, digest: str) -> dict[str, np.ndarray]:
    """The arrays beside the record, if they are those that it was written with; see ``Store.values``."""
    try:
        data = (folder / VALUES).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise DamagedRecord(f"{VALUES} does not have the digest in its record")
        return load_tensors(data)
    except (OSError, SafetensorError) as error:
        raise DamagedRecord(f"{VALUES} cannot be read: {error}") from error


def first_line(error: Exception) -> str:
    """A pydantic error in one line: which field, what is wrong with it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        return f"{where}: {first['msg']}"
    return str(error).splitlines()[0]
