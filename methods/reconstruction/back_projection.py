"""Hand the features back through the layers that made them: transposed weights, undone activations and pools."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bench.back_projection import BackProjection, Inverse, denormalised
from bench.contract import ReconstructionTask, Unsupported, method
from bench.ops import finite


@method(
    source="Zhang et al. 2023, arXiv:2212.09062; layers as the authors' public code inverts them [code]",
    differs="divided by the amplitude instead of by squared row norms, except as `rownorm` [our choice]; batch norm,"
    " max pools of any size, residual and attention blocks and tokens are ours [our choice]; only the features are"
    " known, so no masks of the forward pass are used; brought to the contrast of the data, except as `raw`"
    " [our choice]",
    variants={
        "rownorm": {"inverse": "rownorm"},  # as the authors' code scales kernels
        "pinv": {"inverse": "pinv"},  # the fair linear inverse of weights that are not orthogonal
        "undone_norm": {"batch_norm": "undo"},  # orthogonal weights stay orthogonal
        "raw": {"contrast": "raw"},
    },
)
@dataclass(frozen=True, kw_only=True)
class BackProjectionMethod:
    """x = g(z), without a search and without data; with semi-orthogonal weights the linear part of g is exact.

    Blocks that are no chain of layers are inverted numerically, see ``bench.back_projection``.
    """

    inverse: Inverse = "transpose"  # of each layer's W: Wᵀ / amplitude; or "rownorm", "pinv"
    amplitude: float = 1.0  # squared singular values that training aimed at
    batch_norm: Literal["fold", "undo"] = "fold"  # invert folded weights, or undo the norm and invert the weights
    contrast: Literal["data", "raw"] = "data"  # mean and spread of each picture set to those of the data, or left
    steps: int = 6  # of each solver for a block

    def why_not(self, task: ReconstructionTask) -> str | None:
        """Every layer before the tap needs an inverse step, and blocks need passes for their solvers."""
        try:
            cost = self._inverse_of(task).passes_alone
        except Unsupported as problem:
            return str(problem)
        return None if task.budget >= cost else f"needs {cost} passes an image, the budget is {task.budget}"

    def fit(self, task: ReconstructionTask) -> BackProjection:
        """The inverse is put together once for all images; no passes."""
        return self._inverse_of(task)

    def reconstruct(self, task: ReconstructionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b for the features ``task.wanted[b]``."""
        inputs: Tensor = task.fitted(task.wanted)
        if self.contrast == "data":
            inputs = _standardised(inputs)
        return finite(denormalised(task.model, inputs)).clamp(0, 1)

    def _inverse_of(self, task: ReconstructionTask) -> BackProjection:
        return BackProjection(
            task.model,
            task.tap,
            inverse=self.inverse,
            amplitude=self.amplitude,
            batch_norm=self.batch_norm,
            steps=self.steps,
        )


def _standardised(inputs: Tensor) -> Tensor:
    """Each picture with mean 0 and variance 1, as the network's inputs have on the whole; a flat one becomes 0."""
    centred = inputs - inputs.mean((1, 2, 3), keepdim=True)
    spread = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
    return centred / spread.clamp(min=1e-12)
