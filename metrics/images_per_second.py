"""How many images a second the method gets done."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.contract import TRACKS, Undefined, metric


@metric(
    unit="images/s",
    better="higher",
    per="set",
    bounds=(0.0, None),
    tracks=tuple(TRACKS),
    resample="none",
    decimals=2,
)
def images_per_second(*, cost: Mapping[str, float | None]) -> Tensor | Undefined:
    """Images made, judged or, in training, learnt from, divided by the seconds of the method alone.

    n_images / wall_s. In training an image counts each time that it is seen. What the method learns once (`fit`) is in
    the time; loading data and taking readings are not.
    Source: the usual definition; no paper to match.
    Beware: it is the speed of this machine at this batch size and number of threads, and of what else ran meanwhile.
    A method that spends less of its budget is faster, and may be worse: ``passes_per_image`` does not depend on the
    machine.

    Args:
        cost: the record's cost columns, ``n_images`` and ``wall_s`` among them.

    Returns:
        () float64 images a second; ``Undefined`` when no image or no time was counted.

    Raises:
        KeyError: ``cost`` lacks one of the two.
    """
    images, seconds = cost["n_images"], cost["wall_s"]
    if not images or not seconds:
        return Undefined(f"needs images and seconds, the cell counted {images} images in {seconds} s")
    return torch.tensor(images / seconds, dtype=torch.float64)
