"""What the reference images say about natural pictures: the covariance of their colours and their mean spectrum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import SetupError

CHUNK = 64  # references looked at together, for memory's sake
SMALLEST = 1e-6  # share of the largest variance below which a direction of colour counts as absent


@dataclass(frozen=True)
class Colours:
    """Mean and covariance of reference pixels, as a linear map to numbers without correlation and back.

    Args:
        mean: (C,) mean intensity.
        root: (C, C) with root · rootᵀ the covariance: principal directions as columns, that of most variance last.
        inverse: (C, C) its pseudo-inverse: greyscale pictures in three channels have one direction only.
    """

    mean: Tensor
    root: Tensor
    inverse: Tensor

    def coloured(self, parts: Tensor) -> Tensor:
        """(B, C, H, W) uncorrelated numbers of mean 0 and variance 1 → intensities with the references' covariance."""
        return mixed(self.root, parts) + self.mean[:, None, None]

    def decorrelated(self, images: Tensor) -> Tensor:
        """The way back."""
        return mixed(self.inverse, images - self.mean[:, None, None])


def colours_of(references: Tensor) -> Colours:
    """Measure the colours of all pixels of (R, C, H, W) images.

    Raises:
        SetupError: every pixel has the same colour.
    """
    channels, count = references.shape[1], references[:, 0].numel()
    parts = references.split(CHUNK)
    mean = torch.stack([part.double().sum((0, 2, 3)) for part in parts]).sum(0) / count
    centred = ((part.double() - mean[:, None, None]).transpose(0, 1).reshape(channels, -1) for part in parts)
    covariance = torch.stack([part @ part.T for part in centred]).sum(0) / count
    variances, directions = torch.linalg.eigh(covariance)
    if not variances[-1] > 0:
        raise SetupError(
            f"all pixels of the {len(references)} references have one colour",
            "colours and spectra are measured on them: give real pictures",
        )
    # eigenvectors are known up to their sign, which must not depend on the platform
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()
    there = variances > SMALLEST * variances[-1]
    spreads = torch.where(there, variances, 0.0).sqrt()
    inverse = directions / torch.where(there, spreads, torch.inf)
    return Colours(mean.float(), (directions * spreads).float(), inverse.T.float())


def mean_magnitude(references: Tensor, colours: Colours) -> Tensor:
    """(C, H, W // 2 + 1) mean over the references of |FFT| of their decorrelated channels, orthonormal."""
    sums = [torch.fft.rfft2(colours.decorrelated(part), norm="ortho").abs().sum(0) for part in references.split(CHUNK)]
    return torch.stack(sums).sum(0) / len(references)


def mixed(matrix: Tensor, images: Tensor) -> Tensor:
    """Each pixel of (B, C, H, W) times a (C', C) matrix; element by element, so that the batch's size plays no part."""
    return (matrix[:, :, None, None] * images[:, None]).sum(2)
