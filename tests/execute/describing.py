"""An inversion method that says what it asked for; or says it wrongly, by its setting."""

from dataclasses import dataclass
from typing import Any

import torch

from bench.contract import method


@method(source="a test")
@dataclass(frozen=True, kw_only=True)
class Describing:
    """Grey images, each asked to be half its label and half the next class; pairs differ by their latent alone."""

    says: str = "right"

    def invert(self, task: Any) -> Any:
        """Noise around grey."""
        return (0.5 + 0.1 * task.noise()).clamp(0, 1)

    def describe(self, task: Any) -> Any:
        """What was asked for, or something else."""
        classes = task.model.num_classes
        wanted = torch.zeros(len(task), classes)
        for shift in (0, 1):
            wanted[torch.arange(len(task)), (task.labels + shift) % classes] = 0.5
        match self.says:
            case "nothing":
                return None
            case "unknown":
                return {"mood": wanted}
            case "short":
                return {"latent_groups": task.places[1:]}
            case "floats":
                return {"latent_groups": task.places.float()}
            case "nan":
                return {"wanted_distribution": wanted * float("nan")}
            case "turns":
                return {"latent_groups": task.places} if task.places[0] == 0 else {}
            case "greedy":
                task.model(torch.zeros(len(task) * task.budget, *task.model.image_shape))
        return {"wanted_distribution": wanted, "latent_groups": task.places // 2}
