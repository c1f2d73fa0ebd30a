"""Run one of foolbox's attacks that look for the smallest change that fools, under this project's rules.

Not a method: the files beside it are.
"""

import foolbox
import torch
from foolbox.attacks.base import MinimizationAttack
from torch import Tensor

from bench.contract import AdversarialTask
from bench.ops import check_images, finite, within_bound


def why_not(task: AdversarialTask, passes: int) -> str | None:
    """The reason why an attack whose first step costs ``passes`` cannot run."""
    if task.model.num_classes < 2:
        return f"needs a wrong class, {task.model.name} has {task.model.num_classes} classes"
    return None if task.budget >= passes else f"needs {passes} passes an image, the budget is {task.budget}"


def attack(kind: MinimizationAttack, task: AdversarialTask) -> Tensor:
    """Change ``task.images`` by foolbox's attack ``kind``; where the bound is smaller than the change, project.

    Returns:
        (B, C, H, W) float32 in [0, 1], within the task's bound; the original where ``kind`` gave up on an image, which
        foolbox says by a black one. (A black image that does fool is taken for that, too.)
    """
    check_images(images=task.images)  # foolbox would fail with an assertion that says nothing
    model = foolbox.PyTorchModel(task.model, bounds=(0, 1), device=task.device)
    found: Tensor = kind.run(model, task.images, foolbox.criteria.Misclassification(task.labels))
    given_up = ~found.flatten(1).any(1)
    kept = torch.where(given_up[:, None, None, None], task.images, found)
    return finite(within_bound(kept, task.images, task.bound))
