"""Copies of the reference images of each class: a method that shows what it was shown."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import VisualizationTask, method


@method(source="this project: a cheat, to see which metric finds it out", reference=True)
@dataclass(frozen=True, kw_only=True)
class CopiedReferences:
    """Hand back training images of the class asked for, each in turn; any, when there is none of the class."""

    def why_not(self, task: VisualizationTask) -> str | None:
        """A channel has no images of its own."""
        return "needs classes to copy images of, the targets are channels" if task.kind == "channel" else None

    def fit(self, task: VisualizationTask) -> Tensor:
        """Return (N,) the place among the references of the image that is copied for each place of the cell."""
        copied = torch.empty_like(task.places)
        for label in task.targets.unique():
            places = (task.targets == label).nonzero()[:, 0]
            of_class = task.reference_labels == label
            given = (of_class if of_class.any() else torch.ones_like(of_class)).nonzero()[:, 0]
            copied[places] = given[torch.arange(len(places), device=given.device) % len(given)]
        return copied

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1]."""
        return task.references[task.fitted[task.places]]
