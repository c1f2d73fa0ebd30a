"""Paint the runner-up class into an image: edit its top features, send the edit back to the pixels, add it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.back_projection import BackProjection, denormalised, top_tap
from bench.contract import AdversarialTask, Classifier, Unsupported, method
from bench.ops import finite, within_bound

BATCH = 64  # references in one forward pass
FREE_L2, FREE_PIXELS = 8.0, 28 * 28  # largest L2 without a bound, for that many numbers; it grows with their root


@dataclass(frozen=True, kw_only=True)
class Known:
    """What ``fit`` learns of the cell's references.

    Args:
        tap: whose features are edited.
        back: g, from the tap's features to the input.
        prototypes: (K, …) P_t, mean features of the references of each class that the subject has right; of all of the
            class where it has none right.
        present: (K,) bool, which classes have references.
        passes: that this cost an image of the cell.
    """

    tap: str
    back: BackProjection
    prototypes: Tensor
    present: Tensor
    passes: int


@method(
    source="Zhang et al. 2023, arXiv:2212.09062: explainable adversarial samples without extra parameters or training"
    " [paper]; the formula is not public, this one is ours [our choice]",
    differs="the target is the runner-up; classifier rows are the gradient of the logits' difference by the features,"
    " which is the same where the head is linear; ReLUs hand back as they are, so no union of masks is needed",
    variants={"random_edit": {"random_edit": True}, "pinv": {"inverse": "pinv"}},
)
@dataclass(frozen=True, kw_only=True)
class BortSynthesis:
    """clip(x + ε d / ‖d‖) with d = g(z + dz) − g(z), the smallest ε on a grid up to the bound that gives class t.

    z: top features of x, of the true class s; t: the wrong class with the largest logit of those with references;
    v: gradient of s_t − s_s by z; P_t: the prototype of t. dz takes the q channels with the largest Σ v_c (P_t − z)_c
    to the prototype, and of the others the q with the most negative Σ v_c down to it where they are above (sums over
    positions). No amplitude is asked for: d has the length of the grid, whatever the scale of g.
    """

    tap: str = ""  # whose features are edited; the top one that g can start from when empty
    share: float = 0.25  # q over the number of channels
    grid: int = 16  # values of ε, evenly up to the bound; fewer where the budget asks for it
    inverse: Literal["transpose", "rownorm", "pinv"] = "transpose"  # of each layer in g
    random_edit: bool = False  # control: channels at random instead of the best ones

    def why_not(self, task: AdversarialTask) -> str | None:
        """Needs a network that can be followed back, and the passes of ``fit``, the edit and one ε."""
        try:
            back = BackProjection(task.model, self._tap(task.model), inverse=self.inverse)
        except Unsupported as reason:
            return str(reason)
        needed = _share_of_references(task) + _fixed_passes(back) + 1
        return None if task.budget >= needed else f"needs {needed} passes an image, the budget is {task.budget}"

    @torch.no_grad()
    def fit(self, task: AdversarialTask) -> Known:
        """Average the references' features by class; one forward pass each, shared by the cell's images."""
        tap = self._tap(task.model)
        seen = [task.model.observe(part, (tap,)) for part in task.references.split(BATCH)]
        features = torch.cat([part.features[tap] for part in seen])
        right = torch.cat([part.logits for part in seen]).argmax(1) == task.reference_labels  # (R,)
        member = F.one_hot(task.reference_labels, task.model.num_classes).to(features)  # (R, K)
        of_right = member * right[:, None]
        chosen = torch.where(of_right.any(0), of_right, member)
        mean = chosen / chosen.sum(0).clamp(min=1)
        prototypes = torch.einsum("rk,r...->k...", mean, features)
        back = BackProjection(task.model, tap, inverse=self.inverse)
        passes = _share_of_references(task)
        return Known(tap=tap, back=back, prototypes=prototypes, present=member.any(0), passes=passes)

    def attack(self, task: AdversarialTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1] within ``task.bound``; wrong images come back as they are.

        Costs a forward pass and a backward one for v, a recording, twice g, and a forward pass for each ε.
        """
        known: Known = task.fitted
        images = task.images.clone().requires_grad_()
        seen = task.model.observe(images, (known.tap,))
        targets = _runner_up(seen.logits, task.labels, known.present)
        gain = seen.logits.gather(1, targets[:, None]) - seen.logits.gather(1, task.labels[:, None])
        (slope,) = torch.autograd.grad(gain.sum(), seen.features[known.tap])  # sum: images do not depend on each other
        recording = known.back.record(task.images)
        features = recording.features
        edited = features + self._edit(task, slope, features, known.prototypes[targets])
        ways = [denormalised(task.model, known.back(end, recording)) for end in (edited, features)]
        attacked = self._smallest(task, ways[0] - ways[1], targets)
        moved = (seen.logits.argmax(1) == task.labels) & (targets != task.labels)
        return finite(torch.where(moved[:, None, None, None], attacked, task.images))

    def describe(self, task: AdversarialTask) -> dict[str, Tensor]:
        """Say which class each image was aimed at; one forward pass, as part of the budget."""
        with torch.no_grad():
            return {"target_labels": _runner_up(task.model(task.images), task.labels, task.fitted.present)}

    def _tap(self, model: Classifier) -> str:
        return self.tap or top_tap(model)

    def _edit(self, task: AdversarialTask, slope: Tensor, features: Tensor, prototypes: Tensor) -> Tensor:
        """(B, …) dz: some channels go to the prototype, others only down to it."""
        gap = prototypes - features
        gain, pull = _by_channel(slope * gap), _by_channel(slope)  # (B, D)
        if self.random_edit:
            gain, pull = task.draws("channels", 2, gain.shape[1]).unbind(1)
        count = max(1, round(self.share * gain.shape[1]))
        raised = _largest(gain, count)
        lowered = _largest(-pull.masked_fill(raised, torch.inf), count) & ~raised  # fewer where channels run out
        return gap * _spread(raised, gap) + gap.clamp(max=0) * _spread(lowered, gap)

    @torch.no_grad()
    def _smallest(self, task: AdversarialTask, direction: Tensor, targets: Tensor) -> Tensor:
        """(B, C, H, W) images at the smallest ε that gives the target, at the largest where none does."""
        bound, known = task.bound, task.fitted
        farthest = FREE_L2 * (direction[0].numel() / FREE_PIXELS) ** 0.5 if bound.norm == "none" else bound.size
        order = torch.inf if bound.norm == "linf" else 2
        length = torch.linalg.vector_norm(direction, order, (1, 2, 3), keepdim=True)
        unit = direction / length.clamp(min=torch.finfo(length.dtype).tiny)
        steps = min(self.grid, task.budget - known.passes - _fixed_passes(known.back))
        chosen = within_bound(task.images + farthest * unit, task.images, bound)
        found = torch.zeros_like(targets, dtype=torch.bool)
        for step in range(1, steps + 1):
            images = within_bound(task.images + farthest * step / steps * unit, task.images, bound)
            first = (task.model(images).argmax(1) == targets) & ~found
            chosen, found = torch.where(first[:, None, None, None], images, chosen), found | first
        return chosen


def _fixed_passes(back: BackProjection) -> int:
    """Passes of one image without ``fit`` and grid: for v, for what g remembers, for g twice, for ``describe``."""
    return 2 + 1 + 2 * back.passes + 1


def _share_of_references(task: AdversarialTask) -> int:
    """Passes that ``fit`` costs an image of the cell, rounded up."""
    return -(-len(task.references) // max(1, len(task)))


def _runner_up(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """(B,) the wrong class with the largest (B, K) logit of those ``present``; the label itself where there is none."""
    open_to = present & (F.one_hot(labels, logits.shape[1]) == 0)  # (B, K)
    best = logits.masked_fill(~open_to, -torch.inf).argmax(1)
    return torch.where(open_to.any(1), best, labels)


def _by_channel(features: Tensor) -> Tensor:
    """(B, D) sums over positions of maps (B, D, H', W'), tokens (B, tokens, D), or features without any (B, D)."""
    if features.ndim == 3:
        return features.sum(1)
    return features.flatten(2).sum(2) if features.ndim == 4 else features


def _spread(channels: Tensor, like: Tensor) -> Tensor:
    """(B, D) at every position of ``like``."""
    return channels[:, None] if like.ndim == 3 else channels.view(*channels.shape, *(1,) * (like.ndim - 2))


def _largest(numbers: Tensor, count: int) -> Tensor:
    """(B, D) bool: the ``count`` largest numbers of each row."""
    best = numbers.topk(min(count, numbers.shape[1])).indices
    return torch.zeros_like(numbers, dtype=torch.bool).scatter(1, best, True)
