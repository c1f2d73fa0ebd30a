"""One gradient step to the edge of the bound."""

from dataclasses import dataclass

from foolbox.attacks import L2FastGradientAttack, LinfFastGradientAttack
from torch import Tensor

from bench.contract import AdversarialTask, method
from methods.adversarial import _foolbox


@method(
    source="Goodfellow et al. 2015, section 4, arXiv:1412.6572; foolbox 3.3",
    differs="follows the log-odds of a wrong answer: the cross-entropy's direction without its vanishing; for an l2"
    " bound the step has length ε along the gradient instead of its sign",
)
@dataclass(frozen=True, kw_only=True)
class FGSM:
    """x + ε sign(∇ loss), or x + ε ∇ loss / ‖∇ loss‖ for an l2 bound, clipped to [0, 1]. Nothing to set."""

    def why_not(self, task: AdversarialTask) -> str | None:
        """Needs a bound to step to, and one forward and one backward pass."""
        return _foolbox.why_not(task, passes=2)

    def attack(self, task: AdversarialTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1] within ``task.bound``; costs 2 passes an image."""
        kind = LinfFastGradientAttack if task.bound.norm == "linf" else L2FastGradientAttack
        return _foolbox.attack(kind, task)
