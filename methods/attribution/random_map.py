"""A map that knows nothing: what every attribution has to beat."""

from dataclasses import dataclass

from torch import Tensor

from bench.contract import AttributionTask, method


@method(source="the floor of the track, no paper to match")
@dataclass(frozen=True, kw_only=True)
class RandomMap:
    """Independent uniform numbers, drawn anew for each image. Nothing to set."""

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps in [0, 1); costs no pass."""
        _, height, width = task.model.image_shape
        return task.draws("map", height, width, law="uniform")
