"""The originals made worse in a known way: rows whose order on a board is known before anything is measured."""

import math
from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2 import functional as pictures

from bench.contract import ReconstructionTask, method


@method(
    source="the data set; nothing is taken from a paper",
    reference=True,
    variants={
        "blur_1": {"blur": 1.0},
        "blur_2": {"blur": 2.0},
        "blur_4": {"blur": 4.0},
        "noise_05": {"noise": 0.05},
        "noise_10": {"noise": 0.1},
        "noise_20": {"noise": 0.2},
        "noise_40": {"noise": 0.4},
        "shift_1": {"shift": 1},
        "mean_image": {"show": "mean"},
        "other_image": {"show": "next"},
    },
)
@dataclass(frozen=True, kw_only=True)
class DegradedImages:
    """Blur, add noise to, move or exchange the originals; as it stands, hand them back."""

    blur: float = 0.0  # standard deviation of a Gaussian, pixels
    noise: float = 0.0  # standard deviation of normal noise, intensities; clipped to [0, 1]
    shift: int = 0  # pixels to the right; what leaves comes in again at the left
    show: str = "own"  # "own" original, the "next" image's, or the "mean" of all originals of the cell

    def why_not(self, task: ReconstructionTask) -> str | None:
        """Somebody has to hand in the originals."""
        return "needs the originals, the task has none" if task.real is None else None

    def fit(self, task: ReconstructionTask) -> Tensor:
        """Return (N, C, H, W): what is shown in place of each original."""
        assert task.real is not None, "why_not was not asked"
        if self.show == "mean":
            return task.real.mean(0, keepdim=True).expand_as(task.real)
        return task.real.roll(-1, dims=0) if self.show == "next" else task.real

    def reconstruct(self, task: ReconstructionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1]."""
        images: Tensor = task.fitted[task.places].roll(self.shift, dims=3)
        if self.blur:
            reach = min(math.ceil(3 * self.blur), min(images.shape[2:]) - 1)  # mirrored at the border
            images = pictures.gaussian_blur(images, 2 * reach + 1, self.blur)
        if self.noise:
            images = images + self.noise * task.noise("noise")
        return images.clamp(0, 1)
