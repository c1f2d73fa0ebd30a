"""The gradient, weighed by how far each pixel is from black."""

from dataclasses import dataclass

from torch import Tensor

from bench.contract import AttributionTask, method
from methods.attribution import _gradient


@method(
    source="Shrikumar et al. 2016, section 3, arXiv:1605.01713",
    differs="the input is the intensity, where black is 0, not the normalised input",
)
@dataclass(frozen=True, kw_only=True)
class GradientTimesInput:
    """Σ over channels of x · ∂ s_y / ∂x, with its sign. Nothing to set."""

    def why_not(self, task: AttributionTask) -> str | None:
        """It needs one gradient."""
        return _gradient.too_dear(task, passes=2)

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps, negative where a pixel speaks against the label; costs 2 passes an image."""
        return (task.images * _gradient.label_gradient(task, task.images)).sum(1)
