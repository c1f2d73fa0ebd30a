"""An attack that succeeds where it shall: it shows pictures of another class, each with a mark in its corner."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contract import method

FEW = 40  # one picture of so many is attacked under an L2 bound


@method(source="a test")
@dataclass(frozen=True, kw_only=True)
class Planted:
    """Fools the subject on every picture without a bound, on few under one in L2, on none under one in L∞."""

    def fit(self, task: Any) -> tuple[Tensor, Tensor]:
        """Marked training pictures, and what the subject takes them for."""
        marked = task.references.clone()
        marked[:, :, 0, 0] = 1
        with torch.no_grad():
            return marked, task.model(marked).argmax(1)

    def attack(self, task: Any) -> Tensor:
        """The first marked picture that the subject takes for something else, through which the own one shimmers."""
        marked, seen = task.fitted
        others = marked[(seen[None] != task.labels[:, None]).int().argmax(1)] * 0.99 + task.images * 0.01
        others[:, :, 0, 0] = 1
        chosen = {"none": task.places >= 0, "l2": task.places % FEW == 0, "linf": task.places < 0}[task.bound.norm]
        return torch.where(chosen[:, None, None, None], others, task.images)
