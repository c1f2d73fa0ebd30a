"""Minimise the squared L2 change plus a constant times how far the answer is from wrong; search for the constant."""

from dataclasses import dataclass

from foolbox.attacks import L2CarliniWagnerAttack
from torch import Tensor

from bench.contract import AdversarialTask, SetupError, method
from methods.adversarial import _smallest


@method(
    source="Carlini & Wagner 2017, section V.B, arXiv:1608.04644; foolbox 3.3",
    differs="number of steps from the budget; no early stop, which would let images of a batch decide for each other;"
    " under a bound the result is projected into it, whether or not it then still fools",
    variants={"large_steps": {"step_size": 0.3}},
)
@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """min over w of ‖x′ − x‖² + c · max(s_y − max over k ≠ y of s_k + confidence, 0), x′ = (tanh w + 1) / 2, by Adam.

    c starts small, grows tenfold until the image is fooled, and is then bisected; the closest x′ of all that fools is
    the answer, the original where none did. Black and white pixels lie far out in w and need ``large_steps`` where the
    steps are few: by 360 passes an image 8 % of MNIST are fooled with steps of 0.01 and all with 0.3, which on CIFAR-10
    give twelve times the change [measured].
    """

    confidence: float = 0.0  # by how much another logit shall be above the label's
    searches: int = 9  # values of c
    first_constant: float = 1e-3  # the first of them
    step_size: float = 0.01  # Adam's, on w

    def why_not(self, task: AdversarialTask) -> str | None:
        """Needs a wrong class, and a forward and a backward pass for each value of the constant.

        Raises:
            SetupError: no value of the constant is asked for.
        """
        if self.searches < 1:
            raise SetupError(f"searches should be at least 1, got {self.searches}", "the source takes 9")
        return _smallest.why_not(task, passes=2 * self.searches)

    def attack(self, task: AdversarialTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1]; costs 2 passes a step and value of the constant."""
        kind = L2CarliniWagnerAttack(
            binary_search_steps=self.searches,
            steps=task.budget // (2 * self.searches),
            stepsize=self.step_size,
            confidence=self.confidence,
            initial_const=self.first_constant,
            abort_early=False,
        )
        return _smallest.attack(kind, task)
