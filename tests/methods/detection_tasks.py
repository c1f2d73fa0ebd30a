"""Detection cells for tests, made of whatever a test has."""

from typing import Any

import torch
from torch import Tensor

from bench.contract import DetectionTask


def detection_task(model: Any, images: Tensor, **fields: Any) -> DetectionTask:
    """A cell with nothing to learn from but what is given, each known picture an original of class 0 by itself."""
    known = fields.get("known", images[:0])
    one_each = torch.arange(len(known))
    defaults = {
        "seed": 0,
        "budget": 1000,
        "clean": images[:0],
        "clean_labels": one_each[:0],
        "known": known,
        "known_attacked": torch.zeros(len(known), dtype=torch.bool),
        "known_originals": one_each,
        "known_labels": torch.zeros_like(one_each),
    }
    return DetectionTask(model=model, places=torch.arange(len(images)), images=images, **(defaults | fields))


def judged(method: Any, task: DetectionTask) -> Tensor:
    """The scores, after learning."""
    return method.score(task.replace(fitted=method.fit(task)) if hasattr(method, "fit") else task)
