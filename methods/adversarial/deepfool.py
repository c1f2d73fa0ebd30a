"""Walk to the nearest boundary of the classes as if they were straight, again and again, until the answer changes."""

from dataclasses import dataclass
from typing import Literal

from foolbox.attacks import L2DeepFoolAttack, LinfDeepFoolAttack
from torch import Tensor

from bench.contract import AdversarialTask, SetupError, method
from methods.adversarial import _smallest


@method(
    source="Moosavi-Dezfooli et al. 2016, algorithm 2, arXiv:1511.04599; foolbox 3.3",
    differs="looks at the likeliest classes only; fewer steps where the budget asks for it; clipped to [0, 1] in each"
    " step; under a bound the result is projected into it, whether or not it then still fools",
    variants={"linf": {"norm": "linf"}},
)
@dataclass(frozen=True, kw_only=True)
class DeepFool:
    """x ← clip(x₀ + (1 + overshoot) Σ rᵢ), rᵢ the shortest way to a boundary of the network made linear at x.

    With f_k = s_k − s_y and w_k = ∇ f_k: the k with the least |f_k| / ‖w_k‖ is taken, and r = |f_k| w_k / ‖w_k‖². For
    linf the length is |f_k| / ‖w_k‖₁, along sign(w_k). An image stops as soon as it is misclassified; one that never
    is comes out as its last step left it.
    """

    norm: Literal["l2", "linf"] = "l2"  # in which the way is the shortest
    steps: int = 50  # at most
    overshoot: float = 0.02  # share of the way that is gone beyond the boundary
    candidates: int = 10  # likeliest classes of the original, its own among them

    def why_not(self, task: AdversarialTask) -> str | None:
        """Needs a wrong class, a forward pass, and two passes for each of the other candidates.

        Raises:
            SetupError: fewer than two candidates.
        """
        if self.candidates < 2:
            raise SetupError(
                f"candidates should be at least 2, got {self.candidates}", "one of them is the answer itself"
            )
        return _smallest.why_not(task, passes=1 + self._passes_a_step(task))

    def attack(self, task: AdversarialTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1]; all images pay until the last of the batch is done."""
        steps = min(self.steps, (task.budget - 1) // self._passes_a_step(task))
        kind = LinfDeepFoolAttack if self.norm == "linf" else L2DeepFoolAttack
        return _smallest.attack(kind(steps=steps, candidates=self.candidates, overshoot=self.overshoot), task)

    def _passes_a_step(self, task: AdversarialTask) -> int:
        return 2 * (min(self.candidates, task.model.num_classes) - 1)
