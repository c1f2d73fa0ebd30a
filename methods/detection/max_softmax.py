"""An image is suspicious when the network is not sure of its own answer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import DetectionTask, method


@method(
    source="Hendrycks & Gimpel 2017, section 3, arXiv:1610.02136",
    differs="1 − max softmax, so that higher is more suspicious; summed over the other classes, which keeps the order"
    " of images whose probability rounds to 1",
)
@dataclass(frozen=True, kw_only=True)
class MaxSoftmax:
    """Probability of all classes but the likeliest. Nothing to set, nothing to fit."""

    def why_not(self, task: DetectionTask) -> str | None:
        """It looks at each image once."""
        return None if task.budget >= 1 else f"needs 1 pass an image, the budget is {task.budget}"

    def score(self, task: DetectionTask) -> Tensor:
        """Return (B,) float32 scores in [0, 1 − 1/K]; costs 1 pass an image."""
        with torch.no_grad():
            probabilities = task.model(task.images).double().softmax(1)  # (B, K)
        likeliest = probabilities.argmax(1, keepdim=True)
        return probabilities.scatter(1, likeliest, 0.0).sum(1).float()
