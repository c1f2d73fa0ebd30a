"""Records made by hand, for tests of the right tower."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.leaderboard import Boards, assemble
from bench.leaderboard.lines import samples_of
from bench.record import Cost, Identity, IndexedCell, Reading, Record, Store, SuiteIndex

Values = Mapping[str, np.ndarray]


def reading(value: float | None = 0.5, *, metric: str = "ssim", **changes: Any) -> Reading:
    fields: dict[str, Any] = {
        "stem": metric,
        "metric": metric,
        "score_id": f"id_{metric}",
        "status": "ok",
        "value": value,
        "unit": "fraction",
        "better": "higher",
        "per": "image",
        "resample": "image",
    }
    return Reading(**(fields | changes))


def record(method: str = "one", seed: int = 0, *, readings: Sequence[Reading] = (), **changes: Any) -> Record:
    identity: dict[str, Any] = {
        "track": "reconstruction",
        "dataset": "digits",
        "split": "test",
        "subject": "cnn.digits.sgd",
        "method": method,
        "condition": "layer3",
        "variant": "default",
        "method_version": 1,
        "seed": seed,
    }
    identity |= {name: changes.pop(name) for name in list(changes) if name in identity}
    who = Identity(**identity)
    fields: dict[str, Any] = {
        "key": "_".join(str(part) for part in (who.track, who.subject, who.condition, method, who.variant, seed)),
        "identity": who,
        "settings": {"step_size": 0.1},
        "spec": {},
        "status": "ok",
        "readings": tuple(readings),
        "cost": Cost(wall_s=1.5, forward_passes=10, backward_passes=10, n_images=4),
        "conditions": {"batch_size": 64, "precision": "fp32", "torch": "2.15.0", "deterministic": True},
        "provenance": {"started_utc": f"2026-09-01T00:00:0{seed}Z", "weights_sha256": "0012345", "data_sha256": "d"},
    }
    return Record(**(fields | changes))


def measured(method: str, per_seed: Sequence[np.ndarray], **changes: Any) -> list[tuple[Record, Values]]:
    """One record a seed whose value is the mean of its per-image values."""
    found = []
    for seed, values in enumerate(per_seed):
        one = reading(float(np.nanmean(values)), values="ssim", n_scored=len(values), **changes.get("card", {}))
        rest = {name: value for name, value in changes.items() if name != "card"}
        found.append((record(method, seed, readings=[one], **rest), {"ssim": np.asarray(values, dtype=np.float64)}))
    return found


def index_of(records: Sequence[Record], **changes: Any) -> SuiteIndex:
    fields: dict[str, Any] = {
        "suite": "smoke",
        "profile": "cpu",
        "suite_version": "1.0.0",
        "protocol": 1,
        "board": "smoke",
        "primary": {"reconstruction": "ssim"},
        "cells": tuple(
            IndexedCell(key=one.key, identity=one.identity, is_reference=one.is_reference) for one in records
        ),
    }
    return SuiteIndex(**(fields | changes))


def boards_of(
    made: Sequence[tuple[Record, Values]], *, planned: Sequence[Record] = (), intervals: bool = True, **changes: Any
) -> Boards:
    """Boards of records in memory; ``planned`` cells have no record."""
    arrays = {one.key: values for one, values in made}
    records = [one for one, _ in made]
    index = index_of([*records, *planned], **changes)
    return assemble(index, records, (lambda one: arrays[one.key]) if intervals else lambda one: {}, intervals=intervals)


def with_samples(made: Sequence[tuple[Record, Values]], **changes: Any) -> Boards:
    """Boards whose per-image values are at hand, as they are from a store."""
    known = {one.key: (one, values) for one, values in made}
    return replace(boards_of(made, **changes), samples=lambda cell: samples_of(*known[cell]) if cell in known else {})


def stored(folder: Path, made: Sequence[tuple[Record, Values]], **changes: Any) -> Store:
    """A store that holds the records, and the index of their board."""
    store = Store.create(folder)
    for one, values in made:
        store.commit(one, values, store.stage(one.key))
    store.write_index(index_of([one for one, _ in made], **changes))
    return store


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)
