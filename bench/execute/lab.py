"""What cells share inside a worker: data, subjects and referees, loaded once and checked before each use."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import registry
from bench.contract import Classifier
from bench.execute.features import BATCH, FeatureCache, Features, set_digest
from bench.ops import in_batches
from bench.plan.cells import Cell, build_as_trained, eval_transform
from bench.record import Store
from bench.zoo import networks, weights
from bench.zoo.datasets import Dataset, DatasetCard, open_dataset
from bench.zoo.foundations import Judge, load_judge

MODELS_KEPT = 6


class Lab:
    """Data and networks for the cells of one process.

    Args:
        store: where records and trained weights lie.
        root: where the data lie; None where there is none.
        device: where everything runs.
    """

    def __init__(self, store: Store, root: Path | None, device: torch.device) -> None:
        self.store, self.root, self.device = store, root, device
        self._data: dict[tuple[str, str | None], Dataset] = {}
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._checksums: dict[str, str] = {}
        self._judges: dict[str, Judge] = {}
        self.features = FeatureCache(store.root / "features", device)

    # -- data --------------------------------------------------------------------------------------------------------

    def data(self, cell: Cell) -> Dataset:
        """The cell's data set, opened once."""
        place = (cell.dataset, cell.folder)
        if place not in self._data:
            self._data[place] = open_dataset(cell.dataset, self.root, folder=Path(cell.folder) if cell.folder else None)
        return self._data[place]

    def images(self, cell: Cell, split: str, places: Tensor) -> Tensor:
        """(N, C, H, W) float32 intensities in [0, 1] on the device."""
        data = self.data(cell)
        transform = None if cell.track == "training" else eval_transform(cell.subject, data.card)
        return data.images(split, places, transform).to(self.device).float() / 255

    def labels(self, cell: Cell, split: str, places: Tensor) -> Tensor:
        """(N,) int64 on the device."""
        return self.data(cell).labels(split)[places].to(self.device)

    # -- networks ----------------------------------------------------------------------------------------------------

    def model(self, cell: Cell, name: str, key: str | None) -> Classifier:
        """A network by its training cell's key, or public weights by name; kept for the next cell."""
        place = key or name
        if place not in self._models:
            self._models[place] = self._load(cell, name, key)
            self._checksums[place] = self._models[place].checksum()
            while len(self._models) > MODELS_KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(place)
        return self._models[place]  # type: ignore[no-any-return]

    def trained(self, cell: Cell, key: str) -> Any:
        """The network that a training cell on the cell's data set left, on the CPU, to be changed at will.

        Raises:
            KeyError: the training cell, when it is another one, has no record.
            SetupError: its weights are missing or damaged.
        """
        spec = cell.spec if key == cell.key else self.store.read(key).spec
        method = registry.make_method(f"training/{spec['method']}", spec["variant"], spec["settings"])
        network = build_as_trained(spec["subject"], _normalised_by(spec, self.data(cell).card), method)
        weights.load_weights(network, subject_folder(self.store, key) / "weights.safetensors")
        return network

    def checksum(self, name: str, key: str | None) -> str:
        """The checksum that a network had when it was loaded."""
        return self._checksums[key or name]

    def forget(self, name: str, key: str | None) -> None:
        """Drop a network that somebody changed."""
        self._models.pop(key or name, None)

    def judge(self, name: str) -> Judge:
        """A published judge network, loaded once; raises as ``load_judge``."""
        if name not in self._judges:
            self._judges[name] = load_judge(name, self.root).to(self.device)
        return self._judges[name]

    def _load(self, cell: Cell, name: str, key: str | None) -> Classifier:
        if key is None:
            return weights.load_public(name, self.root).to(self.device)
        card = self.data(cell).card
        trained = self.trained(cell, key)
        wrapped = networks.wrap(trained, name=name, num_classes=card.num_classes, image_shape=card.image_shape)
        return wrapped.to(self.device)

    # -- what networks show on whole sets ----------------------------------------------------------------------------

    def real_digest(self, cell: Cell, split: str, places: Tensor) -> str:
        """Names a set of real images without opening it."""
        transform = None if cell.track == "training" else eval_transform(cell.subject, self.data(cell).card)
        content = cell.spec["data"] if split == "test" else self.data(cell).digest(split, places)
        return set_digest(cell.dataset, cell.folder, content, split, transform, places)

    def look(
        self, name: str, key: str | None, model: Classifier, images: str, shown: Callable[[], Tensor], *, lasting: bool
    ) -> Features:
        """Logits and penultimate features of a set of images, from one pass over it.

        Args:
            name, key: of the network, as for ``model``.
            images: digest of the set.
            shown: gives its images, (N, C, H, W); called when nothing is known of the set yet.
            lasting: keep a file: the set will be looked at again.
        """
        return self.features.get(images, self.checksum(name, key), lambda: _one_pass(model, shown()), lasting=lasting)

    def logits(self, model: Classifier, images: Tensor) -> Tensor:
        """(N, K) logits without a graph, in batches."""
        with torch.no_grad():
            return in_batches(model, images, BATCH)

    def penultimate(self, model: Classifier, images: Tensor) -> Tensor:
        """(N, D) input of the last linear layer, without a graph, in batches."""
        with torch.no_grad():
            return in_batches(lambda part: model.features(part, "penultimate").flatten(1), images, BATCH)


def public_start(spec: Mapping[str, Any]) -> str | None:
    """Name of the public weights that a training cell starts from, by its ``spec``."""
    name, at, _ = str(spec.get("start", "")).partition("@")  # a training cell's key has no @
    return name if at else None


def _normalised_by(spec: Mapping[str, Any], data: DatasetCard) -> DatasetCard:
    """The data set's card with the normalisation that the training cell's network has: its start's, if public."""
    name = public_start(spec)
    if name is None:
        return data
    start = weights.public_card(name)
    return dataclasses.replace(data, mean=start.mean, std=start.std)


def _one_pass(model: Classifier, images: Tensor) -> Features:
    parts: dict[str, list[Tensor]] = {"logits": [], "penultimate": []}
    with torch.no_grad():
        for part in torch.split(images, BATCH):
            if model.num_classes:
                seen = model.observe(part, ("penultimate",))
                parts["logits"].append(seen.logits)
                parts["penultimate"].append(seen.features["penultimate"].flatten(1))
            else:
                parts["penultimate"].append(model.features(part, "penultimate").flatten(1))
    return {name: torch.cat(found) for name, found in parts.items() if found}


def subject_folder(store: Store, key: str) -> Path:
    """Where a training cell keeps its network."""
    return store.root / "subjects" / key
