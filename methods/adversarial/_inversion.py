"""When an attack by a conditioned generator cannot run.

Not a method: the files beside it are.
"""

from fractions import Fraction

from bench.conditioned_generator import Recipe
from bench.contract import AdversarialTask


def why_not(task: AdversarialTask, recipe: Recipe) -> str | None:
    """The reason why a generator, which sees no original, cannot attack.

    Raises:
        SetupError: settings that fit neither each other nor the subject.
    """
    bound, classes = task.bound, task.model.num_classes
    if bound.norm != "none":
        size = Fraction(bound.size).limit_denominator(255)
        return f"makes new images, a bound of {bound.norm} {size} around the originals cannot hold"
    if classes < 2:
        return f"needs a wrong class, {task.model.name} has {classes} classes"
    recipe.check(task.model)
    return recipe.too_dear(task)
