"""One learned picture a class, shown whenever the class is asked for: the right label, and no diversity at all."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import InversionTask, method
from bench.ops import finite

BATCH = 64  # pictures in one pass through the subject: bounds the memory


@dataclass(frozen=True)
class Table:
    """Args:
    classes: (A,) int64, ascending: those that were asked for.
    images: (A, C, H, W) float32 intensities in [0, 1], one a class.
    """

    classes: Tensor
    images: Tensor


@method(source="the degenerate floor of the track, no paper to match: what a label alone can buy")
@dataclass(frozen=True, kw_only=True)
class ClassPrototypeTable:
    """Minimise the cross-entropy of one image a class over its pixels behind a sigmoid; every asker gets that image.

    The passes are shared out over the cell's images; those beyond ``steps`` steps stay unspent.
    """

    steps: int = 500  # at most
    step_size: float = 0.05  # change of a pixel per step, before the sigmoid
    start_spread: float = 0.1  # standard deviation of the starting pixels, before the sigmoid

    def why_not(self, task: InversionTask) -> str | None:
        """One step costs a forward and a backward pass for each class that is asked for."""
        needed, allowed = 2 * len(task.labels.unique()), task.budget * len(task)
        return None if needed <= allowed else f"needs 2 passes a class, {needed} in all, the cell has {allowed}"

    def fit(self, task: InversionTask) -> Table:
        """Learn the table; the numbers that a row starts from depend on its class and the cell's seed alone."""
        classes = task.labels.unique()
        steps = min(self.steps, task.budget * len(task) // (2 * len(classes)))
        pixels = (self.start_spread * task.replace(places=classes).noise("class")).requires_grad_()
        optimiser = torch.optim.Adam([pixels], lr=self.step_size)
        for _ in range(steps):
            optimiser.zero_grad()
            for some, wanted in zip(pixels.split(BATCH), classes.split(BATCH), strict=True):
                # sum, not mean: a class must not depend on which others are asked for
                F.cross_entropy(task.model(some.sigmoid()), wanted, reduction="sum").backward()
            optimiser.step()
        return Table(classes, finite(pixels.sigmoid()))

    def invert(self, task: InversionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b the row of ``task.labels[b]``."""
        table: Table = task.fitted
        return table.images[torch.searchsorted(table.classes, task.labels)]
