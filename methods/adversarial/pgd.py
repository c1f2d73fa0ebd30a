"""Projected gradient descent from a random start: many small steps, each pulled back into the bound."""

from dataclasses import dataclass

from foolbox.attacks import L2ProjectedGradientDescentAttack, LinfProjectedGradientDescentAttack
from torch import Tensor

from bench.contract import AdversarialTask, method
from methods.adversarial import _foolbox


@method(
    source="Madry et al. 2018, section 2.1, arXiv:1706.06083; foolbox 3.3",
    differs="follows the log-odds of a wrong answer: the cross-entropy's direction without its vanishing; number of"
    " steps from the budget; one start, drawn per image",
)
@dataclass(frozen=True, kw_only=True)
class PGD:
    """Steps of travel · ε / steps along sign(∇ loss), or ∇ loss / ‖∇ loss‖ for l2; budget / 2 of them."""

    travel: float = 2.5  # length of all steps together, in bounds; above 2 it can cross the whole ball

    def why_not(self, task: AdversarialTask) -> str | None:
        """Needs a bound to project to, and a forward and a backward pass a step."""
        return _foolbox.why_not(task, passes=2)

    def attack(self, task: AdversarialTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1] within ``task.bound``; costs 2 passes a step."""
        steps = task.budget // 2
        kind = LinfProjectedGradientDescentAttack if task.bound.norm == "linf" else L2ProjectedGradientDescentAttack
        return _foolbox.attack(kind, task, _uniform_in_ball(task), steps=steps, rel_stepsize=self.travel / steps)


def _uniform_in_ball(task: AdversarialTask) -> Tensor:
    """(B, C, H, W) uniform in the ball of radius 1 of the bound's norm, one draw an image."""
    if task.bound.norm == "linf":
        return 2 * task.draws("start", *task.model.image_shape, law="uniform") - 1
    # the first P coordinates of a point on the sphere in P + 2 dimensions are uniform in the ball: Voelker et al. 2017
    pixels = task.images[0].numel()
    points = task.draws("start", pixels + 2)
    return (points / points.norm(dim=1, keepdim=True))[:, :pixels].reshape(task.images.shape)
