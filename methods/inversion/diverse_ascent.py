"""Pixel ascent with the diversity terms of network inversion but no generator: tells apart what each of them does."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.conditioned_generator.losses import cosine_term, orthogonality_term
from bench.contract import InversionTask, method
from bench.ops import finite


@method(
    source="cosine term of Suhail & Sethi 2024, arXiv:2407.18002, orthogonality term of Suhail, Tang & Sethi 2024,"
    " arXiv:2411.17777; on pixels instead of a generator's weights [our choice]",
    differs="each image has its own pixels, so there is neither a generator nor a soft condition with its KL term;"
    " rows of the Gram matrix have unit length; the loss weights are not published and are 1",
    alone=False,
    variants={"same_class": {"pairs": "same_class"}, "no_diversity": {"cosine": 0.0, "orthogonality": 0.0}},
)
@dataclass(frozen=True, kw_only=True)
class DiverseAscent:
    """Minimise CE(x, y) + cosine · L_cos + orthogonality · L_ortho over the pre-sigmoid pixels of a batch.

    Both terms are taken over pairs of the batch's penultimate features: an image depends on its batch-mates. The whole
    budget goes into steps of two passes.
    """

    cosine: float = 1.0  # weight of the mean cosine of pairs
    orthogonality: float = (
        1.0  # weight of the Gram matrix's distance from the identity, all pairs whatever ``pairs`` says
    )
    pairs: Literal["all", "same_class"] = "all"  # of the cosine term; all pairs are the published form
    step_size: float = 0.05  # change of a pixel per step, before the sigmoid
    start_spread: float = 0.1  # standard deviation of the starting pixels, before the sigmoid

    def why_not(self, task: InversionTask) -> str | None:
        """One step costs a forward and a backward pass."""
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def invert(self, task: InversionTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.labels[b]``."""
        pixels = (self.start_spread * task.noise()).requires_grad_()
        optimiser = torch.optim.Adam([pixels], lr=self.step_size)
        for _ in range(task.budget // 2):
            seen = task.model.observe(pixels.sigmoid(), ("penultimate",))
            loss = F.cross_entropy(seen.logits, task.labels)
            loss = loss + self._likeness(seen.features["penultimate"], task.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return finite(pixels.sigmoid())

    def _likeness(self, features: Tensor, labels: Tensor) -> Tensor:
        """() what a batch pays for (B, D) features that point the same way; a batch of one image pays nothing."""
        cosine = cosine_term(features, labels=labels, pairs=self.pairs)
        return self.cosine * cosine + self.orthogonality * orthogonality_term(features)
