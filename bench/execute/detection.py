"""What a detector is judged by and learns from: pictures clean, with noise and attacked, in equal number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contract import seed_for

LARGEST = 1000.0  # how often the noise may be its size before clipping: at that, hardly a pixel is left to move
HALVINGS = 40
PART = 64  # pictures at once: bounds the memory


@dataclass(frozen=True)
class Trials:
    """Three images of each of G pictures, one after the other: all clean ones, all noisy ones, all attacked ones.

    Args:
        images: (3G, C, H, W) intensities in [0, 1].
        noisy, attacked: (3G,) bool.
        originals: (3G,) int64, the picture's place in the test split.
        labels: (3G,) int64, true labels.
    """

    images: Tensor
    noisy: Tensor
    attacked: Tensor
    originals: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: Tensor) -> "Trials":
        """The images at these places, in their order."""
        return Trials(**{name: values[chosen.to(values.device)] for name, values in vars(self).items()})


def trials(clean: Tensor, attacked: Tensor, *, labels: Tensor, originals: Tensor, seed: int) -> Trials:
    """Clean pictures, the same with noise as large as the attack, and the attacked ones.

    Args:
        clean, attacked: (G, C, H, W), picture by picture.
        labels, originals: (G,) int64.
        seed: of the noise, which depends besides on the original alone.
    """
    kinds = torch.arange(3, device=clean.device).repeat_interleave(len(clean))
    return Trials(
        images=torch.cat([clean, with_noise(clean, attacked, originals, seed), attacked]),
        noisy=kinds == 1,
        attacked=kinds == 2,
        originals=originals.repeat(3),
        labels=labels.repeat(3),
    )


def with_noise(clean: Tensor, attacked: Tensor, originals: Tensor, seed: int) -> Tensor:
    """(G, C, H, W) clean pictures plus uniform noise, clipped to [0, 1]: in L2 as far from them as the attacked ones.

    Clipping takes some of the noise away (half of it on a black ground), so its factor is found by bisection. Where no
    factor goes as far as the attack, the noise goes as far as its signs let it.
    """
    if not len(clean):
        return clean
    shape = clean.shape[1:]
    draws = [
        torch.rand(shape, generator=torch.Generator().manual_seed(seed_for(seed, "noise", place)))
        for place in originals.tolist()
    ]
    noise = (2 * torch.stack(draws) - 1).to(clean.device)
    parts = zip(clean.split(PART), attacked.split(PART), noise.split(PART), strict=True)
    return torch.cat([_as_far(*part) for part in parts])


def _as_far(clean: Tensor, attacked: Tensor, noise: Tensor) -> Tensor:
    """(G, C, H, W) clean pictures plus as many times the noise as it takes to get as far as the attacked ones."""
    exact, direction = clean.double(), noise.double()
    wanted = _l2(attacked.double() - exact)

    def moved(factor: Tensor) -> Tensor:
        return (exact + factor[:, None, None, None] * direction).clamp(0, 1)

    low = wanted / _l2(direction)  # enough if nothing were clipped
    high = LARGEST * low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_short = _l2(moved(middle) - exact) < wanted
        low, high = torch.where(is_short, middle, low), torch.where(is_short, high, middle)
    return moved(high).float()


def _l2(change: Tensor) -> Tensor:
    """(G,) Euclidean norm over all pixels of each picture."""
    sizes: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return sizes


def check_apart(known: Tensor, judged: Tensor) -> None:
    """No picture that a detector learns from is one that it is judged by.

    Args:
        known, judged: originals of both sides, (J,) and (N,).

    Raises:
        RuntimeError: some are, so that the detector could know them by heart.
    """
    both = known[torch.isin(known, judged)].unique()
    if len(both):
        raise RuntimeError(f"{len(both)} pictures are on both sides of the detector's split, first {int(both[0])}")


def summary(kept: Mapping[str, Tensor], known: int) -> dict[str, Any]:
    """What the record says of the split, in pictures.

    Args:
        kept: the cell's artifacts.
        known: images to learn from, three of each picture.
    """
    right = kept["right"]
    return {
        "pictures": len(right),
        "right": int(right.sum()),
        "judged": len(kept["originals"]) // 3,
        "known": known // 3,
    }
