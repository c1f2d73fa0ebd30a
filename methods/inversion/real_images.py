"""Real test images of the wanted labels: the row that says what perfect would score."""

from dataclasses import dataclass

from torch import Tensor

from bench.contract import InversionTask, method


@method(source="the data set", reference=True)
@dataclass(frozen=True, kw_only=True)
class RealImages:
    """Show the task's real images; never ranked."""

    def why_not(self, task: InversionTask) -> str | None:
        """Somebody has to hand in the images."""
        return "needs real images of the wanted labels, the task has none" if task.real is None else None

    def invert(self, task: InversionTask) -> Tensor:
        """Return ``task.real``, (B, C, H, W) float32 intensities in [0, 1]."""
        assert task.real is not None, "why_not was not asked"
        return task.real.clone()
