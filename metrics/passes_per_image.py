"""How many passes through the subject an image costs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.contract import TRACKS, Undefined, metric


@metric(
    unit="passes",
    better="lower",
    per="set",
    bounds=(0.0, None),
    tracks=tuple(track for track in TRACKS if track != "training"),
    resample="none",
    decimals=2,
)
def passes_per_image(*, cost: Mapping[str, float | None]) -> Tensor | Undefined:
    """Forward and backward passes of single images through the subject, divided by the cell's images.

    (forward_passes + backward_passes) / n_images, one pass being one image forward or one image backward. What the
    method learns once (`fit`) is divided over the images too.
    Source: this count is the definition; no paper to match.
    Beware: other networks that a method brings along, a generator or a denoiser, are not counted; and a pass up to a
    shallow tap counts as much as one through the whole subject.

    Args:
        cost: the record's cost columns, ``n_images``, ``forward_passes`` and ``backward_passes`` among them.

    Returns:
        () float64 passes an image, at most the cell's budget; ``Undefined`` when nothing was counted.

    Raises:
        KeyError: ``cost`` lacks one of the three.
    """
    images, forward, backward = (cost[name] for name in ("n_images", "forward_passes", "backward_passes"))
    if not images or forward is None or backward is None:
        return Undefined("the cell counted no images or no passes")
    return torch.tensor((forward + backward) / images, dtype=torch.float64)
