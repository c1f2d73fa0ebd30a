"""Real held-out images of each target: the row that says what perfect would score."""

from dataclasses import dataclass

from torch import Tensor

from bench.contract import VisualizationTask, method


@method(source="the data set", reference=True)
@dataclass(frozen=True, kw_only=True)
class RealImages:
    """Show the task's real images; never ranked."""

    def why_not(self, task: VisualizationTask) -> str | None:
        """Somebody has to hand in the images."""
        return "needs real images of the targets, the task has none" if task.real is None else None

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return ``task.real``, (B, C, H, W) float32 intensities in [0, 1]."""
        assert task.real is not None, "why_not was not asked"
        return task.real.clone()
