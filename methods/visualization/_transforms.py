"""Small random changes that a picture should survive, each image with its own."""

import torch
from torch import Tensor
from torch.nn import functional as F


def rolled(images: Tensor, shifts: Tensor) -> Tensor:
    """Image b shifted down by ``shifts[b, 0]`` and right by ``shifts[b, 1]`` pixels, what leaves comes in again."""
    height, width = images.shape[2:]
    rows = (torch.arange(height, device=images.device) - shifts[:, :1]) % height  # (B, H)
    columns = (torch.arange(width, device=images.device) - shifts[:, 1:]) % width  # (B, W)
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def whole_shifts(uniforms: Tensor, reach: int) -> Tensor:
    """Uniform numbers in [0, 1) → whole numbers in [−reach, reach]."""
    return (uniforms * (2 * reach + 1)).long() - reach


def resampled(images: Tensor, *, share: Tensor, angle: Tensor, centre: Tensor, outside: float = 0.5) -> Tensor:
    """What a window of each picture shows, at the picture's own number of pixels; bilinear.

    The output's pixel at offset d from the middle (down, right) is the input's at middle + centre + share · R(angle) d.

    Args:
        images: (B, C, H, W).
        share: (B,) side of the window as a share of the picture's: below 1 it enlarges.
        angle: (B,) radians.
        centre: (B, 2) pixels down and right from the picture's middle to the window's.
        outside: what lies around the picture.
    """
    height, width = images.shape[2:]
    down = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2  # (H, 1)
    right = torch.arange(width, device=images.device) - (width - 1) / 2  # (W,)
    cosine, sine = (turn[:, None, None] for turn in (share * angle.cos(), share * angle.sin()))
    rows = centre[:, 0, None, None] + cosine * down - sine * right  # (B, H, W), from the middle
    columns = centre[:, 1, None, None] + sine * down + cosine * right
    grid = torch.stack([2 * columns / width, 2 * rows / height], dim=3)  # ±1 are the picture's outer edges
    return F.grid_sample(images - outside, grid, align_corners=False) + outside


def mirrored_where(images: Tensor, chosen: Tensor) -> Tensor:
    """Left to right, the images that (B,) bool says."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def neighbour_lengths(images: Tensor) -> Tensor:
    """(B,) sum of the lengths of the differences to the right, lower, lower-left and lower-right neighbour [code]."""
    upper, lower = images[:, :, :-1], images[:, :, 1:]
    ways = (
        images[..., 1:] - images[..., :-1],
        lower - upper,
        lower[..., :-1] - upper[..., 1:],
        lower[..., 1:] - upper[..., :-1],
    )
    return torch.stack([torch.linalg.vector_norm(way, dim=(1, 2, 3)) for way in ways]).sum(0)
