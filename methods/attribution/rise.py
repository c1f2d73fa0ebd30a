"""How much of the label's probability is left, on average, when a pixel is among those still seen."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import AttributionTask, method
from methods.attribution import _gradient

AT_ONCE = 256  # masked images in one forward pass: bounds the memory at 224 px


@method(
    source="Petsiuk et al. 2018, section 3, arXiv:1806.07421",
    differs="masks are drawn for each image; what is hidden is black, where the authors' code hides normalised inputs"
    " by their mean; 500 masks, where the paper takes 4000 to 8000",
)
@dataclass(frozen=True, kw_only=True)
class Rise:
    """1 / (N · p) · Σ over masks of p_y(x ⊙ M) · M, with p_y the label's softmax probability.

    A mask is a grid of cells, each seen with chance p, brought bilinearly to one cell more than the image's size and
    cut out at a random place.
    """

    masks: int = 500  # N, at most; the budget pays for as many as it has passes
    cells: int = 7  # cells of a mask's grid along a side
    share: float = 0.5  # p, chance of a cell to be seen

    def why_not(self, task: AttributionTask) -> str | None:
        """With fewer masks than a grid has cells, the masks say more about the map than the network does."""
        return _gradient.too_dear(task, passes=min(self.masks, self.cells**2))

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps ≥ 0; costs 1 pass a mask."""
        count, (_, height, width) = min(self.masks, task.budget), task.model.image_shape
        seen = (task.draws("cells", count, self.cells, self.cells, law="uniform") < self.share).float()
        starts = task.draws("starts", count, 2, law="uniform")
        total = torch.zeros(len(task), height, width, device=task.device)
        for part in torch.arange(count, device=task.device).split(max(1, AT_ONCE // len(task))):
            rows = _mixing(height, self.cells, starts[:, part, 0])  # (B, M, H, G)
            columns = _mixing(width, self.cells, starts[:, part, 1])  # (B, M, W, G)
            masks = rows @ seen[:, part] @ columns.mT  # (B, M, H, W)
            total += torch.einsum("bm, bmhw -> bhw", _probabilities(task, masks), masks)
        return total / (count * self.share)


def _mixing(length: int, cells: int, start: Tensor) -> Tensor:
    """(B, M, length, G) how much of each cell a pixel has, along one side.

    Bilinear interpolation from ``cells`` cells to (cells + 1) · s pixels, s = ⌈length / cells⌉ being the size of a
    cell, of which ``length`` pixels are taken from ⌊start · s⌋ on.

    Args:
        start: (B, M) in [0, 1).
    """
    size = math.ceil(length / cells)
    pixels = torch.arange(length, device=start.device) + (start * size).floor()[..., None]  # (B, M, length)
    place = (pixels + 0.5) * cells / ((cells + 1) * size) - 0.5  # 0 is the middle of the first cell
    distance = (place.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=start.device)).abs()
    return (1 - distance).clamp(min=0)


def _probabilities(task: AttributionTask, masks: Tensor) -> Tensor:
    """(B, M) probability of each image's label under each of its (B, M, H, W) masks."""
    masked = task.images[:, None] * masks[:, :, None]  # (B, M, C, H, W)
    with torch.no_grad():
        probabilities = task.model(masked.flatten(0, 1)).softmax(1)
    labels = task.labels.repeat_interleave(masks.shape[1])
    return probabilities.gather(1, labels[:, None]).view(masks.shape[:2])
