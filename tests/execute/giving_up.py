"""An attribution method that gives up on a network that knows nothing."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contract import Diverged, method


@method(source="a test")
@dataclass(frozen=True, kw_only=True)
class GivingUp:
    """Explains a network that is right more often than not; leaves, or says that it has diverged, on others."""

    leaves: bool = False

    def explain(self, task: Any) -> Tensor:
        """The image's first channel."""
        with torch.no_grad():
            right = (task.model(task.images).argmax(1) == task.labels).float().mean()
        if right < 0.5:
            raise SystemExit(3) if self.leaves else Diverged("this network knows nothing")
        return task.images[:, 0].clone()
