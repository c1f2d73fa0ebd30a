"""The parts of reference images that drive a channel most: VITAL's references of an inner neuron.

Görgün et al. 2025, arXiv:2503.22399. The public code has two ways that disagree in scale, stride and score; this is one
way between them [our choice]: the images whose largest activation is highest are cut into overlapping patches, each is
enlarged to the subject's size, and the patches of highest mean activation are taken, one of an image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import Classifier, VisualizationTask
from bench.ops import in_batches
from bench.sort_matching import distributions

SIDE = 224  # pixels; patches are given for pictures of this side
BATCH = 32  # images in one forward pass


@dataclass(frozen=True)
class Grid:
    """Where patches lie: squares of ``side`` pixels, half a side apart."""

    side: int
    height: int
    width: int

    @property
    def count(self) -> int:
        """Patches of one image."""
        return len(range(0, self.height - self.side + 1, self.stride)) * self._columns

    @property
    def stride(self) -> int:
        """Pixels from one patch to the next."""
        return max(1, self.side // 2)

    @property
    def _columns(self) -> int:
        return len(range(0, self.width - self.side + 1, self.stride))

    def all_of(self, images: Tensor) -> Tensor:
        """(n, C, H, W) → (n · count, C, H, W) every patch, enlarged to the images' own size."""
        windows = images.unfold(2, self.side, self.stride).unfold(3, self.side, self.stride)
        return self._enlarged(windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))

    def some_of(self, images: Tensor, places: Tensor) -> Tensor:
        """(n, C, H, W) and (n,) places in [0, count) → (n, C, H, W) that patch of each image, enlarged."""
        offsets = torch.arange(self.side, device=images.device)
        rows = (places // self._columns * self.stride)[:, None] + offsets  # (n, side)
        columns = (places % self._columns * self.stride)[:, None] + offsets
        number = torch.arange(len(images), device=images.device)[:, None, None]
        windows = images[number, :, rows[:, :, None], columns[:, None, :]]  # (n, side, side, C)
        return self._enlarged(windows.permute(0, 3, 1, 2))

    def _enlarged(self, windows: Tensor) -> Tensor:
        return F.interpolate(windows, size=(self.height, self.width), mode="bilinear", align_corners=False)


def grid_of(model: Classifier, patch: int) -> Grid:
    """The grid for a subject; ``patch`` is the side of a patch in pictures of 224 pixels, others in proportion."""
    _, height, width = model.image_shape
    return Grid(max(2, round(patch * min(height, width) / SIDE)), height, width)


@torch.no_grad()
def largest_activations(task: VisualizationTask) -> Tensor:
    """(R, D) of each reference, each channel's largest activation over positions. Costs one pass a reference."""
    return in_batches(lambda part: _by_position(task, part).amax(2), task.references, BATCH)


@torch.no_grad()
def best_patches(
    task: VisualizationTask, channel: int, largest: Tensor, grid: Grid, shortlist: int
) -> dict[str, Tensor]:
    """Of the ``shortlist`` references with the largest activation, the best patch of each, best first.

    Costs one pass a patch. Returns (n,) ``image`` (place among the references), ``patch`` (place in the grid) and
    ``score`` (its mean activation).
    """
    images = largest[:, channel].topk(min(shortlist, len(largest))).indices
    at_once = max(1, BATCH // grid.count)

    def mean_activation(part: Tensor) -> Tensor:
        return _by_position(task, grid.all_of(part))[:, channel].mean(1)

    scores = in_batches(mean_activation, task.references[images], at_once).view(len(images), grid.count)
    score, patch = scores.max(1)
    order = score.argsort(descending=True, stable=True)
    return {"image": images[order], "patch": patch[order], "score": score[order]}


def _by_position(task: VisualizationTask, images: Tensor) -> Tensor:
    """(n, D, positions) activations at the task's tap."""
    assert task.tap is not None
    features = task.model.features(images, task.tap)
    return features[:, :, None] if features.ndim == 2 else distributions(features)
