"""A detector of which one knows what it must come to."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.contract import Skip, method


@method(source="a test")
@dataclass(frozen=True, kw_only=True)
class PlantedDetector:
    """Looks at the mark, at nothing, at what it knows by heart, or at what it learned of the known corners."""

    what: str = "mark"

    def why_not(self, task: Any) -> str | None:
        """Says, when asked, how much there is to learn from."""
        if self.what != "counts":
            return None
        return f"{len(task.images)} to judge, {len(task.clean)} clean, {len(task.known)} known"

    def fit(self, task: Any) -> float:
        """A threshold between the corners of known pictures that were attacked and that were not."""
        if self.what != "learns":
            return 0.0
        corners, attacked = task.known[:, 0, 0, 0], task.known_attacked
        if not attacked.any():
            raise Skip(f"learns from attacked pictures, has {int(attacked.sum())}")
        return float((corners[attacked].min() + corners[~attacked].max()) / 2)

    def score(self, task: Any) -> Tensor:
        """(B,) float32."""
        corners = task.images[:, 0, 0, 0]
        match self.what:
            case "chance":
                return task.draws("chance")
            case "memory":
                return (task.images[:, None] == task.known[None]).flatten(2).all(2).any(1).float()
            case "learns":
                return (corners > task.fitted).float()
            case _:
                return corners.clone()
