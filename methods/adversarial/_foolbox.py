"""Run one of foolbox's gradient attacks under this project's rules: our noise, a loss that stays alive, exact bounds.

Not a method: the files beside it are.
"""

from collections.abc import Callable

import eagerpy
import foolbox
from foolbox.attacks.base import Attack
from torch import Tensor

from bench.contract import AdversarialTask
from bench.ops import check_images, finite, within_bound, wrong_class_margin


def why_not(task: AdversarialTask, passes: int) -> str | None:
    """The reason why an attack that follows the gradient ``passes`` / 2 times and projects cannot run."""
    if task.bound.norm == "none":
        return "needs a bound (linf or l2), the condition has none"
    return None if task.budget >= passes else f"needs {passes} passes an image, the budget is {task.budget}"


def attack(kind: type[Attack], task: AdversarialTask, start: Tensor | None = None, **settings: float) -> Tensor:
    """Perturb ``task.images`` by foolbox's attack ``kind``; each of its steps costs two passes.

    ``run`` is called, not the attack itself, which would spend another pass to see who was fooled.

    Args:
        kind: one of foolbox's projected gradient attacks.
        start: (B, C, H, W) where to begin, minus the original, in units of the bound; None for the original.
        settings: what ``kind`` takes.

    Returns:
        (B, C, H, W) float32 in [0, 1], within the task's bound.
    """
    check_images(images=task.images)  # foolbox would fail with an assertion that says nothing
    attacker = kind(random_start=start is not None, **settings)
    attacker.get_loss_fn = _margin_loss
    if start is not None:  # foolbox's own start draws from the global generator
        attacker.get_random_start = lambda images, size: images + size * eagerpy.astensor(start)
    model = foolbox.PyTorchModel(task.model, bounds=(0, 1), device=task.device)
    criterion = foolbox.criteria.Misclassification(task.labels)
    attacked = attacker.run(model, task.images, criterion, epsilon=task.bound.size)
    return finite(within_bound(attacked, task.images, task.bound))


def _margin_loss(model: foolbox.Model, labels: eagerpy.Tensor) -> Callable[[eagerpy.Tensor], eagerpy.Tensor]:
    """Points where the cross-entropy points, image by image, but does not vanish where the network is certain."""
    return lambda images: eagerpy.astensor(wrong_class_margin(model(images.raw), labels.raw).sum())
