"""Many small gradient steps from the image itself, each pulled back into the bound: PGD without a random start."""

from dataclasses import dataclass

from foolbox.attacks import L2BasicIterativeAttack, LinfBasicIterativeAttack
from torch import Tensor

from bench.contract import AdversarialTask, method
from methods.adversarial import _foolbox


@method(
    source="Kurakin et al. 2017, section 2.2, arXiv:1607.02533; foolbox 3.3",
    differs="follows the log-odds of a wrong answer: the cross-entropy's direction without its vanishing; number of"
    " steps from the budget; a step of 2/255 where the source has 1/255; an l2 version with steps along the gradient",
)
@dataclass(frozen=True, kw_only=True)
class BIM:
    """x ← projection of x + α sign(∇ loss), or α ε ∇ loss / ‖∇ loss‖ for an l2 bound ε; budget / 2 steps."""

    step_size: float = 2 / 255  # α for a linf bound, in intensities
    step_share: float = 0.25  # α for an l2 bound, in bounds

    def why_not(self, task: AdversarialTask) -> str | None:
        """Needs a bound to project to, and a forward and a backward pass a step."""
        return _foolbox.why_not(task, passes=2)

    def attack(self, task: AdversarialTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1] within ``task.bound``; costs 2 passes a step."""
        steps = task.budget // 2
        if task.bound.norm == "linf":
            return _foolbox.attack(LinfBasicIterativeAttack, task, steps=steps, abs_stepsize=self.step_size)
        return _foolbox.attack(L2BasicIterativeAttack, task, steps=steps, rel_stepsize=self.step_share)
