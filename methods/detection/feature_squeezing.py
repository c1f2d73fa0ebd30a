"""An image is suspicious when a coarser version of it is answered differently."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import DetectionTask, SetupError, method


@method(
    source="Xu et al. 2018, sections 3 and 5, arXiv:1704.01155",
    differs="the squeezers the paper joins for CIFAR-10 by default, those for MNIST and ImageNet as variants; no"
    " threshold is trained; non-local means compare patches in RGB, where the paper's library does so in the Lab"
    " colour space",
    variants={"mnist": {"bits": 1, "search": 0}, "imagenet": {"search": 11, "strength": 4 / 255}},
)
@dataclass(frozen=True, kw_only=True)
class FeatureSqueezing:
    """max over squeezers s of ‖softmax(x) − softmax(s(x))‖₁. Needs no examples, of attacks or of anything else."""

    bits: int = 5  # an intensity keeps this many; 0 leaves the squeezer out
    median: int = 2  # px, side of the window of the median filter; 0 leaves the squeezer out
    search: int = 13  # px, side of the window in which non-local means look for like patches; 0 leaves them out
    patch: int = 3  # px, side of the patches they compare
    strength: float = 2 / 255  # root mean square difference of two patches, in intensities, at which a weight is 1/e

    def __post_init__(self) -> None:
        """Refuse to compare an image with itself alone, and windows without a middle."""
        if not self._squeezers():
            raise SetupError("feature_squeezing has no squeezer", "give bits, median or search a value above 0")
        if self.search and not (self.search % 2 and self.patch % 2):
            raise SetupError(
                f"search {self.search} and patch {self.patch} should be odd", "a window has a middle pixel"
            )

    def _squeezers(self) -> list[str]:
        return [name for name in ("bits", "median", "search") if getattr(self, name)]

    def why_not(self, task: DetectionTask) -> str | None:
        """It looks at each image, and at each squeezed version of it."""
        needed = 1 + len(self._squeezers())
        return None if task.budget >= needed else f"needs {needed} passes an image, the budget is {task.budget}"

    @torch.no_grad()
    def score(self, task: DetectionTask) -> Tensor:
        """Return (B,) float32 distances in [0, 2]; costs 1 pass an image and 1 more a squeezer."""
        answer = task.model(task.images).double().softmax(1)  # (B, K)
        gaps = [
            (task.model(squeezed).double().softmax(1) - answer).abs().sum(1) for squeezed in self.squeezed(task.images)
        ]
        return torch.stack(gaps).amax(0).float()

    def squeezed(self, images: Tensor) -> list[Tensor]:
        """Each squeezer's version of (B, C, H, W) images."""
        squeeze = {
            "bits": lambda: with_fewer_bits(images, self.bits),
            "median": lambda: median_filtered(images, self.median),
            "search": lambda: non_local_means(images, self.search, self.patch, self.strength),
        }
        return [squeeze[name]() for name in self._squeezers()]


def with_fewer_bits(images: Tensor, bits: int) -> Tensor:
    """Intensities rounded to the nearest of 2^bits equally spaced levels."""
    levels = 2**bits - 1
    return (images * levels).round() / levels


def median_filtered(images: Tensor, side: int) -> Tensor:
    """Median of the side × side window of every pixel, beyond the edge the edge's own pixel.

    A window of even side reaches one pixel further up and left, and of two middle values the larger is taken.
    """
    before = side // 2
    wide = F.pad(images, (before, side - 1 - before) * 2, mode="replicate")
    windows = wide.unfold(2, side, 1).unfold(3, side, 1).flatten(4)  # (B, C, H, W, side²)
    return windows.sort(-1).values[..., side * side // 2]


def non_local_means(images: Tensor, search: int, patch: int, strength: float) -> Tensor:
    """Mean of the pixels around each pixel, weighted by how like their patches are to its own.

    Weights are exp(−d² / strength²), d² the mean squared difference of two patches over their pixels and colours;
    beyond the edge lies the edge's own pixel. Source: Buades et al. 2005, "A non-local algorithm for image denoising".

    Args:
        images: (B, C, H, W).
        search: px, side of the window around a pixel; odd.
        patch: px, side of a patch; odd.
        strength: in intensities.
    """
    height, width = images.shape[2:]
    reach, rim = search // 2, patch // 2
    wide = F.pad(images, (reach + rim,) * 4, mode="replicate")
    own = wide[:, :, reach : reach + height + 2 * rim, reach : reach + width + 2 * rim]
    total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
    for down in range(search):
        for right in range(search):
            other = wide[:, :, down : down + own.shape[2], right : right + own.shape[3]]
            apart = F.avg_pool2d((other - own).square().mean(1, keepdim=True), patch, stride=1)  # (B, 1, H, W)
            weight = (-apart / strength**2).exp()
            total += weight * other[:, :, rim : rim + height, rim : rim + width]
            weights += weight
    return (total / weights).clamp(0, 1)  # rounding alone could leave [0, 1]
