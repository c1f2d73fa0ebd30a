"""What methods share that train one conditioned generator a cell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.conditioned_generator import Recipe, Trained, train_generator
from bench.contract import InversionTask


@dataclass(frozen=True, kw_only=True)
class GeneratorInversion(Recipe):
    """A recipe as a method: the whole budget goes into training, images cost no pass."""

    def why_not(self, task: InversionTask) -> str | None:
        """The settings have to fit the subject; the budget has to pay for a first step."""
        self.check(task.model)
        return self.too_dear(task)

    def fit(self, task: InversionTask) -> Trained:
        """Train the generator."""
        return train_generator(task, self, task.labels)

    def invert(self, task: InversionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b of class ``task.labels[b]``."""
        trained: Trained = task.fitted
        return trained.sample(task, task.labels)

    def describe(self, task: InversionTask) -> dict[str, Tensor]:
        """The probabilities asked for, and which images were made for one and the same condition."""
        trained: Trained = task.fitted
        return {
            "wanted_distribution": trained.wanted(task, task.labels),
            "latent_groups": trained.groups(task, task.labels),
        }

    def report(self, task: InversionTask) -> Mapping[str, Any]:
        """How the training went: every term at some of the steps, and what was counted."""
        trained: Trained = task.fitted
        return {"history": trained.history, "counts": trained.counts}
