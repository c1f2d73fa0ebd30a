"""Real images made worse in a known way: rows whose order on a board is known before anything is measured."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as pictures

from bench.contract import InversionTask, method


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
        "grey": {"contrast": 0.0},
        "modes_10": {"modes": 10},
        "modes_2": {"modes": 2},
        "repeated": {"modes": 1},
        "shuffled_labels": {"labels_moved": 1},
    },
)
@dataclass(frozen=True, kw_only=True)
class DegradedImages:
    """Blur, wash out, add noise to, repeat or exchange the task's real images; as it stands, leave them alone."""

    blur: float = 0.0  # standard deviation of a Gaussian, pixels
    noise: float = 0.0  # standard deviation of normal noise, intensities; clipped to [0, 1]
    contrast: float = 1.0  # factor on the distance from mid-grey
    modes: int = 0  # how many different images each label gets, shown in turn; 0 shows all
    labels_moved: int = 0  # each label gets the images of the label so many places further on

    def why_not(self, task: InversionTask) -> str | None:
        """Somebody has to hand in the images."""
        return "needs real images of the wanted labels, the task has none" if task.real is None else None

    def fit(self, task: InversionTask) -> Tensor:
        """Return (N, C, H, W): the real image that is shown in each place of the cell."""
        assert task.real is not None, "why_not was not asked"
        asked = task.labels.unique()
        shown = torch.empty_like(task.places)
        for own, giver in zip(asked, asked.roll(-self.labels_moved), strict=True):
            places = (task.labels == own).nonzero()[:, 0]
            given = (task.labels == giver).nonzero()[:, 0][: self.modes or None]
            shown[places] = given[torch.arange(len(places), device=given.device) % len(given)]
        return task.real[shown]

    def invert(self, task: InversionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1]."""
        images: Tensor = task.fitted[task.places]
        if self.contrast != 1:
            images = 0.5 + self.contrast * (images - 0.5)
        if self.blur:
            reach = min(math.ceil(3 * self.blur), min(images.shape[2:]) - 1)  # mirrored at the border
            images = pictures.gaussian_blur(images, 2 * reach + 1, self.blur)
        if self.noise:
            images = images + self.noise * task.noise("noise")
        return images.clamp(0, 1)
