"""The slope of the label's logit, which most of the methods beside this file are made of.

Not a method: the files beside it are.
"""

import torch
from torch import Tensor

from bench.contract import AttributionTask


def label_gradient(task: AttributionTask, images: Tensor) -> Tensor:
    """(B, C, H, W) ∂ s_y / ∂x of each image's own label at ``images``; costs 2 passes an image."""
    images = images.detach().clone().requires_grad_()
    explained = task.model(images).gather(1, task.labels[:, None])  # (B, 1)
    (gradient,) = torch.autograd.grad(explained.sum(), images)
    return gradient


def too_dear(task: AttributionTask, passes: int) -> str | None:
    """The reason to skip a method that spends at least ``passes`` an image, if there is one."""
    return None if task.budget >= passes else f"needs {passes} passes an image, the budget is {task.budget}"
