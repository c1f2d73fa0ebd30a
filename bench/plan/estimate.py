"""How long a plan will take: one timed pass of each network on this machine, times the passes planned."""

import dataclasses
import time
from pathlib import Path

import torch

from bench.plan.cells import Cell, Plan, build_untrained
from bench.plan.suite import SubjectName
from bench.zoo import weights
from bench.zoo.datasets import DatasetCard

SAMPLE_S = 0.3


def seconds_of(plan: Plan, root: Path | None, device: torch.device) -> dict[str, float]:
    """Key → seconds that the cell may take in one worker, from passes alone; cells that are skipped take none.

    Each network is timed untrained (its weights do not change its speed), forward and backward together.
    """
    known: dict[tuple[str, str], float] = {}  # (data set, network): another size of image is another speed
    before = torch.get_num_threads()
    torch.set_num_threads(plan.suite.threads)
    try:
        found = {}
        for cell in plan.cells:
            network = SubjectName.parse(cell.subject).network if cell.track != "training" else cell.subject
            name = (cell.dataset, network or cell.subject)
            if cell.skip is None and name not in known:
                known[name] = _seconds_a_pass(cell.subject, network, plan.data[cell.dataset], root, device)
            times = 2 if cell.track == "attribution" else 1  # once more on the subject drawn anew
            found[cell.key] = times * cell.passes * known[name] if cell.skip is None else 0.0
        return found
    finally:
        torch.set_num_threads(before)


def bytes_of(cell: Cell, plan: Plan) -> int:
    """Room on disk that the cell's record and artifacts need, about."""
    card = plan.data[cell.dataset]
    channels, height, width = card.image_shape
    picture = 4 * channels * height * width
    if cell.track == "training":
        return 4 * cell.images * card.num_classes + 5_000_000
    if cell.track == "visualization":
        picture += 4 * height * width  # a transparency map, at most
    maps = 2 * 4 * height * width  # of the subject, and of the subject drawn anew
    return 40_000 + cell.images * ({"detection": 16, "attribution": maps}.get(cell.track, picture) + 400)


def _seconds_a_pass(subject: str, network: str, card: DatasetCard, root: Path | None, device: torch.device) -> float:
    """Half of one forward and backward pass of one image, measured in a small batch."""
    if network:
        model = build_untrained(network, card, seed=0).to(device).eval().requires_grad_(False)
    else:
        model = weights.load_public(subject, root).to(device)
        card = dataclasses.replace(card, image_shape=model.image_shape)
    batch = 16 if card.image_shape[1] <= 64 else 8  # subjects fill smaller batches up to 8
    images = (
        torch.rand(batch, *card.image_shape, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    )
    rounds, started = 0, time.perf_counter()
    while rounds < 2 or time.perf_counter() - started < SAMPLE_S:
        if rounds == 1:
            started = time.perf_counter()  # the first round warms up
        out = model(images) if network or model.num_classes else model.features(images, "penultimate")
        out.sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rounds += 1
    return (time.perf_counter() - started) / (2 * batch * max(1, rounds - 1))
