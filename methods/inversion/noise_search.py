"""Draw random images and keep the one that the network likes best: what luck alone can do."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import InversionTask, method


@method(source="random search; the floor of the track, no paper to match")
@dataclass(frozen=True, kw_only=True)
class NoiseSearch:
    """The image with the largest wanted logit among ``budget`` draws of smooth noise around mid-grey."""

    grain: int = 4  # pixels between two independent values, in between they are interpolated; 1 is white noise
    contrast: float = 0.5  # standard deviation of the independent values, in intensities

    def why_not(self, task: InversionTask) -> str | None:
        """One draw costs one pass."""
        return None if task.budget >= 1 else f"needs 1 pass an image, the budget is {task.budget}"

    def invert(self, task: InversionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.labels[b]``."""
        best = torch.zeros(len(task), *task.model.image_shape, device=task.device)
        highest = torch.full((len(task),), -torch.inf, device=task.device)
        with torch.no_grad():
            for draw in range(task.budget):  # one draw at a time: memory does not grow with the budget
                candidate = self._noise(task, draw)
                logit = task.model(candidate).gather(1, task.labels[:, None])[:, 0]  # (B,)
                better = logit > highest
                best = torch.where(better[:, None, None, None], candidate, best)
                highest = torch.where(better, logit, highest)
        return best

    def _noise(self, task: InversionTask, draw: int) -> Tensor:
        channels, height, width = task.model.image_shape
        coarse = task.draws(f"candidate {draw}", channels, -(-height // self.grain), -(-width // self.grain))
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        return (0.5 + self.contrast * smooth).clamp(0.0, 1.0)
